// The forward pass and the gradient of the input of a convolution in training, by the main loop of
// conv_mainloop.cuh.
//
// Values are as PyTorch has them: channels are not padded. Where every vector of channels can be copied 16
// bytes at a time, it is (`whole`); elsewhere elements are gathered one by one, so that k has no holes where
// there are few channels.
#include "conv2d_nhwc.cuh"
#include "conv_loader.cuh"
#include "pool.cuh"

namespace lasfast {
namespace {

// The positions and channels of a block: a tile of a phase.
struct Tile {
  Axis y, x;
  int first, count;  // positions
  int column;        // first channel
  int64_t row;       // number of its rows among those of its phase

  LASFAST_DEVICE static int phase(const WindowsArgs& args) {
    return static_cast<int>(device::block_index() / args.column_tiles / args.row_tiles);
  }
  LASFAST_DEVICE Tile(const WindowsArgs& args, int columns)
      : y(args.windows, args.windows.out_height, phase(args) / args.windows.phases_x),
        x(args.windows, args.windows.out_width, phase(args) % args.windows.phases_x) {
    column = static_cast<int>(device::block_index() % args.column_tiles) * columns;
    row = device::block_index() / args.column_tiles % args.row_tiles;
    const int64_t all = int64_t{args.windows.images} * y.count * x.count, rest = all - row * conv_rows;
    first = static_cast<int>(row * conv_rows);
    count = static_cast<int>(rest < 0 ? 0 : rest < conv_rows ? rest : conv_rows);
  }
};

// A position of a phase: its image, and its numbers along the axes.
struct Position {
  int image, y, x;

  LASFAST_DEVICE Position(const Tile& tile, int number)
      : image(number / tile.x.count / tile.y.count),
        y(number / tile.x.count % tile.y.count),
        x(number % tile.x.count) {}
};

// The window of a tile's row; there is none for rows behind the tile's last position.
template <typename T>
LASFAST_DEVICE Window<T> window_at(const WindowsArgs& args, const Tile& tile, int row) {
  const Windows& w = args.windows;
  const bool some = row < tile.count;
  const Position at(tile, some ? tile.first + row : 0);
  return {static_cast<const T*>(args.input) + int64_t{at.image} * w.in_height * w.in_width * w.in_channels,
          tile.y.origin + tile.y.origin_step * at.y, tile.x.origin + tile.x.origin_step * at.x, some};
}

// Takes the statistics of a tile, and where this block is the last of its columns, those of all.
template <int BN>
LASFAST_DEVICE void take_statistics(const WindowsArgs& args, const Tile& tile,
                                    Result<conv_rows, BN>& result) {
  const Windows& w = args.windows;
  const int thread = device::thread_index(), row = static_cast<int>(tile.row);
  const Column column = column_moments(result.values, result.pitch, tile.count, BN, &result.moments);
  if (thread < BN && tile.column + thread < w.out_channels)
    store_moments(column, args.partial, row, w.out_channels, tile.column + thread);
  const PooledTiles tiles{w.positions,
                          conv_rows,
                          BN,
                          w.out_channels,
                          args.partial,
                          args.pooled,
                          args.counters + tile.column / BN * (1 + args.groups)};
  const int c = tile.column + thread % BN;
  Pooled pooled;
  if (!tiles.pool_last(row, c, c < w.out_channels, reinterpret_cast<double*>(&result.moments), &pooled))
    return;
  if (thread >= BN || c >= w.out_channels) return;
  args.mean[c] = static_cast<float>(pooled.mean);
  args.variance[c] = static_cast<float>(pooled.deviations / pooled.count);
}

template <typename T, int BN, bool whole, bool warpgroups, template <typename, int, int> class ProductOf>
LASFAST_DEVICE void windows_tile(const WindowsArgs& args) {
  using G = Geometry<conv_rows, BN, warpgroups>;
  using Product = ProductOf<T, G::rows, G::columns>;
  constexpr int step_bytes = Product::step_bytes, step_elements = step_bytes / sizeof(T);
  const Windows& w = args.windows;
  const Tile tile(args, BN);
  device::let_next_begin();
  if (tile.count == 0) return device::wait_for_earlier();
  device::note_tile("windows", Product::name, conv_rows, BN, whole);

  const int64_t packed_phase = tile.y.residue * w.packed_phases + tile.x.residue;
  const int64_t packed_row = packed_phase * w.out_channels + tile.column;
  const ConvOperands operands{w.in_height,
                              w.in_width,
                              w.in_channels,
                              tile.y.taps,
                              tile.x.taps,
                              true,
                              static_cast<const T*>(args.packed) + packed_row * w.depth,
                              w.out_channels - tile.column,
                              w.depth};
  auto* const shared = device::shared<WindowShared<conv_rows, BN, step_bytes>>();
  WindowLoader<T, conv_rows, BN, step_bytes, whole, Unchanged> loader(
      operands, {}, &shared->taps, [&](int row) { return window_at<T>(args, tile, row); });
  const int depth = tile.y.taps * tile.x.taps * w.in_channels;
  const int steps = (depth + step_elements - 1) / step_elements;
  device::wait_for_earlier();
  convolve_windows<Product>(*shared, steps, loader, [&](auto& result) {
    if (args.mean) take_statistics<BN>(args, tile, result);
    const int column = tile.column + result.own_column(), channels = w.out_channels - column;
    if (channels <= 0) return;
    result.for_own_chunks(tile.count, [&](int row, const Chunk& x) {
      const Position at(tile, tile.first + row);
      const int64_t y = tile.y.first + tile.y.step * at.y, x_ = tile.x.first + tile.x.step * at.x;
      T* const to = static_cast<T*>(args.output) + column +
                    ((at.image * w.out_height + y) * w.out_width + x_) * w.out_channels;
      if (args.whole_output && channels >= chunk)
        store_chunk(to, x);
      else
        store_first(to, x, channels);
    });
  });
}

// See blocks_of in schedule_conv.cu. The widest tiles would spill on Hopper in TF32, too, and elsewhere where
// elements are gathered.
template <int BN, bool whole>
constexpr int blocks_of(bool tensor_cores) {
  if (tensor_cores && whole && BN == 16) return 4;
  const int most = !tensor_cores ? 16 : device::has_warpgroups || !whole ? 64 : 128;
  return BN <= most ? 2 : 1;
}

template <typename T, int BN, bool whole, template <typename, int, int> class Product>
LASFAST_KERNEL(block_threads, (blocks_of<BN, whole>(Product<T, 16, 16>::tensor_cores)))
windows(const WindowsArgs args) {
  windows_tile<T, BN, whole, false, Product>(args);
}

// See warpgroup_conv in schedule_conv.cu: where there are no warpgroups, no block of this is launched.
template <typename T, int BN>
LASFAST_KERNEL(device::has_warpgroups ? block_threads : 32, 2)
warpgroup_windows(const WindowsArgs args) {
  if constexpr (device::has_warpgroups) windows_tile<T, BN, true, true, WarpgroupProduct>(args);
}

// Columns of a tile: as many as there are channels, halved while a large chip would have too few tiles, but
// not below `fewest`.
int columns_of(const WindowsArgs& args, int fewest) {
  const Windows& w = args.windows;
  int columns = fewest_columns;
  while (columns < 128 && columns < w.out_channels) columns *= 2;
  const int64_t rows = args.row_tiles * w.phases_y * w.phases_x;
  while (columns > fewest && rows * divide_up(w.out_channels, columns) < 128) columns /= 2;
  return columns;
}

template <typename T, template <typename, int, int> class Product, int BN>
int launch_of(WindowsArgs args, device::Stream stream) {
  args.column_tiles = static_cast<int>(divide_up(args.windows.out_channels, BN));
  const int64_t blocks = args.row_tiles * args.column_tiles * args.windows.phases_y * args.windows.phases_x;
  const bool whole = is_whole(args.input, args.windows.in_channels, sizeof(T));
  auto* kernel = whole ? windows<T, BN, true, Product> : windows<T, BN, false, Product>;
  int64_t bytes = sizeof(WindowShared<conv_rows, BN, conv_step_bytes>);
  if constexpr (sizeof(T) == 2 && BN >= 64) {
    if (whole && args.warpgroups) {
      kernel = warpgroup_windows<T, BN>;
      bytes = sizeof(WindowShared<conv_rows, BN, WarpgroupProduct<T, 64, 64>::step_bytes>);
    }
  }
  return device::launch(kernel, blocks, block_threads, bytes, stream, args, args.early);
}

template <typename T, template <typename, int, int> class Product>
int launch_of(const WindowsArgs& args, device::Stream stream) {
  switch (columns_of(args, args.warpgroups ? 64 : 32)) {
    case 16:
      return launch_of<T, Product, 16>(args, stream);
    case 32:
      return launch_of<T, Product, 32>(args, stream);
    case 64:
      return launch_of<T, Product, 64>(args, stream);
    default:
      return launch_of<T, Product, 128>(args, stream);
  }
}

}  // namespace

int launch_windows(WindowsArgs args, Dtype storage, bool tf32, device::Stream stream) {
  args.row_tiles = args.windows.row_tiles();
  args.groups = static_cast<int>(args.windows.groups());
  args.whole_output = is_whole(args.output, args.windows.out_channels, itemsize(storage));
  if (storage == Dtype::bfloat16) return launch_of<device::bfloat16, TensorProduct>(args, stream);
  return tf32 ? launch_of<float, TensorProduct>(args, stream) : launch_of<float, ExactProduct>(args, stream);
}

}  // namespace lasfast
