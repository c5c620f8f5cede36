// Forward pass and gradient of the input of a convolution on NHWC values, as matrix products: rows are
// positions, columns output channels, and k is (tap, input channel), read 64 bytes at a time in the order of
// k_order.cuh.
//
// It is a schedule's convolution (schedule_conv.cu) for values as PyTorch has them: channels are not padded.
// What can be copied 16 bytes at a time (`whole`) is; otherwise elements are gathered one by one, and k has
// no holes where channels are few.
#include "conv2d_nhwc.cuh"
#include "conv_tile.cuh"
#include "k_order.cuh"
#include "schedule_products.cuh"

namespace lasfast {
namespace {

template <int BN>
union Shared {
  Stage<conv_rows, BN> stage[stages];
  Result<conv_rows, BN> result;
};

// A tile of a phase: which positions and channels.
struct Tile {
  Axis y, x;
  int first, count;  // positions
  int column;        // first channel
  int64_t row;       // its number among those of its phase

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

// Position of the phase, as image and numbers along the axes.
struct Position {
  int image, y, x;

  LASFAST_DEVICE Position(const Tile& tile, int number)
      : image(number / tile.x.count / tile.y.count),
        y(number / tile.x.count % tile.y.count),
        x(number % tile.x.count) {}
};

// The windows of the positions that a thread copies from.
template <typename T>
struct Rows {
  static constexpr int copies = conv_rows / rows_at_once;
  const T* image[copies];
  int top[copies], left[copies];

  LASFAST_DEVICE Rows(const WindowsArgs& args, const Tile& tile) {
    const Windows& w = args.windows;
    LASFAST_UNROLL
    for (int i = 0; i < copies; ++i) {
      const int number = device::thread_index() / pieces + i * rows_at_once;
      const Position at(tile, number < tile.count ? tile.first + number : 0);
      image[i] =
          static_cast<const T*>(args.input) + int64_t{at.image} * w.in_height * w.in_width * w.in_channels;
      // Rows of a tile beyond the last position see nothing but padding.
      top[i] = number < tile.count ? tile.y.origin + tile.y.origin_step * at.y : -(1 << 30);
      left[i] = tile.x.origin + tile.x.origin_step * at.x;
    }
  }
  LASFAST_DEVICE bool inside(const Windows& w, const Walk& at, int i) const {
    const int y = top[i] + at.row, x = left[i] + at.column;
    return at.channel < w.in_channels && y >= 0 && y < w.in_height && x >= 0 && x < w.in_width;
  }
  LASFAST_DEVICE const T* address(const Windows& w, const Walk& at, int i) const {
    return image[i] + (int64_t{top[i] + at.row} * w.in_width + left[i] + at.column) * w.in_channels +
           at.channel;
  }
};

template <typename T, int BN, bool whole, bool warpgroups, template <typename, int, int> class ProductOf>
LASFAST_DEVICE void windows_tile(const WindowsArgs& args) {
  using G = Geometry<conv_rows, BN, warpgroups>;
  using Product = ProductOf<T, G::rows, G::columns>;
  using Result = lasfast::Result<conv_rows, BN>;
  using Stage = lasfast::Stage<conv_rows, BN>;
  constexpr int piece_elements = 16 / sizeof(T), step_elements = conv_step_bytes / sizeof(T);
  auto* const shared = device::shared<Shared<BN>>();
  const Windows& w = args.windows;
  const Tile tile(args, BN);
  if (tile.count == 0) return;
  const int thread = device::thread_index();
  const int piece = thread % pieces, row = thread / pieces;

  const Rows<T> rows(args, tile);
  const int depth = tile.y.taps * tile.x.taps * w.in_channels;
  const int steps = (depth + step_elements - 1) / step_elements;
  const int64_t packed_phase = tile.y.residue * w.packed_phases + tile.x.residue;
  const T* const packed = static_cast<const T*>(args.packed) + packed_phase * w.out_channels * w.depth;
  Walk ahead(run_of(w.in_channels, step_elements));
  if (depth > 0)
    for (int i = 0; i < piece; ++i) ahead.advance<piece_elements>(tile.x.taps, tile.y.taps);

  const auto fill = [&](Stage& stage, int step) {
    LASFAST_UNROLL
    for (int i = 0; i < Rows<T>::copies; ++i) {
      char* const to = stage.a + piece_offset(row + i * rows_at_once, piece);
      if constexpr (whole) {
        const bool inside = rows.inside(w, ahead, i);
        device::copy16_async_cached(to, inside ? rows.address(w, ahead, i) : rows.image[i], inside);
      } else {
        Walk at = ahead;
        Values<piece_elements> values;
        LASFAST_UNROLL
        for (int e = 0; e < piece_elements; ++e) {
          values.v[e] = rows.inside(w, at, i) ? device::to_float(*rows.address(w, at, i)) : 0.f;
          at.advance<1>(tile.x.taps, tile.y.taps);
        }
        device::store16(to, pack_values(values));
      }
    }
    LASFAST_UNROLL
    for (int n = row; n < BN; n += rows_at_once) {
      const int c = tile.column + n;
      const bool inside = c < w.out_channels;
      const int64_t at = int64_t{inside ? c : 0} * w.depth + step * step_elements + piece * piece_elements;
      device::copy16_async(stage.b + piece_offset(n, piece), packed + at, inside);
    }
    ahead.advance<step_elements>(tile.x.taps, tile.y.taps);
  };
  Product product;
  const int first_row = G::first_row(), first_column = G::first_column();
  pipeline<Product::in_flight>(
      shared->stage, steps, fill, [](Stage&) { Product::publish(); },
      [&](const Stage& stage) {
        product.add(stage.a + first_row * conv_step_bytes, stage.b + first_column * conv_step_bytes);
      });

  product.finish();
  device::barrier();

  Result& result = shared->result;
  product.store(result.values + first_row * Result::pitch + first_column, Result::pitch);
  device::barrier();
  if (args.partial) {
    const Column column = column_moments(result.values, Result::pitch, tile.count, BN, &result.moments);
    if (thread < BN && tile.column + thread < w.out_channels) {
      float* const partial = args.partial + 2 * tile.row * w.out_channels + tile.column + thread;
      partial[0] = column.mean;
      partial[w.out_channels] = column.deviations;
    }
  }
  constexpr int across = BN / chunk;
  const int column = thread % across * chunk, channels = w.out_channels - tile.column - column;
  if (channels <= 0) return;
  for (int m = thread / across; m < tile.count; m += schedule_threads / across) {
    const Position at(tile, tile.first + m);
    const int64_t y = tile.y.first + tile.y.step * at.y, x = tile.x.first + tile.x.step * at.x;
    T* const to = static_cast<T*>(args.output) + tile.column + column +
                  ((at.image * w.out_height + y) * w.out_width + x) * w.out_channels;
    Chunk v;
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) v.v[i] = result.values[m * Result::pitch + column + i];
    if (args.whole_output && channels >= chunk) {
      store_chunk(to, v);
      continue;
    }
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i)
      if (i < channels) to[i] = device::from_float<T>(v.v[i]);
  }
}

template <typename T, int BN, bool whole, template <typename, int, int> class Product>
LASFAST_KERNEL(schedule_threads, 1)
windows(const WindowsArgs args) {
  windows_tile<T, BN, whole, false, Product>(args);
}

// As warpgroup_conv is to conv in schedule_conv.cu.
template <typename T, int BN>
LASFAST_KERNEL(device::has_warpgroups ? schedule_threads : 32, 1)
warpgroup_windows(const WindowsArgs args) {
  if constexpr (device::has_warpgroups) windows_tile<T, BN, true, true, WarpgroupProduct>(args);
}

// Columns of a tile: as many as there are, unless that makes too few tiles for a large chip.
int columns_of(const WindowsArgs& args, int fewest) {
  const Windows& w = args.windows;
  int columns = 16;
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
  if constexpr (sizeof(T) == 2 && BN >= 64)
    if (whole && args.warpgroups) kernel = warpgroup_windows<T, BN>;
  return device::launch(kernel, blocks, schedule_threads, sizeof(Shared<BN>), stream, args);
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
  args.row_tiles = divide_up(args.windows.positions, conv_rows);
  args.whole_output = is_whole(args.output, args.windows.out_channels, itemsize(storage));
  if (storage == Dtype::bfloat16) return launch_of<device::bfloat16, TensorProduct>(args, stream);
  return tf32 ? launch_of<float, TensorProduct>(args, stream) : launch_of<float, ExactProduct>(args, stream);
}

}  // namespace lasfast
