// The forward pass and the gradient of the input of a depthwise convolution in training.
//
// A thread has eight channels of four neighbouring positions, and the block's filters lie in shared memory.
// For usual kernels with stride 1 or 2, `slide` loads what a row of the kernel sees of the four positions
// once; a gradient with stride 1 is such a convolution by the turned filter. `gather` does all others, and
// channels that are not read 16 bytes at a time. Terms in the padding are left out.
#include <algorithm>

#include "depthwise_nhwc.cuh"
#include "moments.cuh"

namespace lasfast {
namespace {

constexpr int run = DepthwiseTiling::run;
constexpr int64_t wanted_blocks = 1024;  // fill a large chip a few times; more would load filters again

struct DepthwiseArgs {
  const void* input;   // [images, in_height, in_width, channels]
  const void* weight;  // [channels, kernel, kernel]
  int64_t weight_stride[3];
  bool weight_bf16;
  void* output;    // [positions, channels]
  float* partial;  // or null
  Grid grid;       // of output positions
  int positions, in_height, in_width, out_width, channels;
  int kernel, stride, padding;
  bool turned;      // the filter
  bool transposed;  // positions of the output are strided, not the input's
  int across, rows, column_tiles;
  int64_t row_tiles, row_blocks;  // of a column tile; a block has every so-manieth row tile
};

// Behind it: weights [taps][columns], and for statistics values [rows][columns].
struct Shared {
  Moments moments;
};

// The tiles of a block, one after another, and this thread's part of them.
struct Tile {
  int column, row;  // first channel of the tile; the thread's row
  int first, end;   // positions
  int64_t number;

  LASFAST_DEVICE explicit Tile(const DepthwiseArgs& args)
      : column(static_cast<int>(device::block_index() % args.column_tiles) * args.across * chunk),
        row(device::thread_index() / args.across) {
    go_to(args, device::block_index() / args.column_tiles);
  }
  LASFAST_DEVICE bool some(const DepthwiseArgs& args) const { return number < args.row_tiles; }
  LASFAST_DEVICE void advance(const DepthwiseArgs& args) { go_to(args, number + args.row_blocks); }

 private:
  LASFAST_DEVICE void go_to(const DepthwiseArgs& args, int64_t to) {
    number = to;
    const int64_t left = args.positions - to * args.rows;
    first = static_cast<int>(to * args.rows);
    end = first + static_cast<int>(left < args.rows ? left : args.rows);
  }
};

LASFAST_DEVICE void load_weights(const DepthwiseArgs& args, int first_channel, float* weights) {
  const int taps = args.kernel * args.kernel, columns = args.across * chunk;
  for (int i = device::thread_index(); i < taps * columns; i += block_threads) {
    const int tap = i % taps, c = first_channel + i / taps, from = args.turned ? taps - 1 - tap : tap;
    float value = 0.f;
    if (c < args.channels) {
      const int64_t at = c * args.weight_stride[0] + from / args.kernel * args.weight_stride[1] +
                         from % args.kernel * args.weight_stride[2];
      value = args.weight_bf16 ? device::to_float(static_cast<const device::bfloat16*>(args.weight)[at])
                               : static_cast<const float*>(args.weight)[at];
    }
    weights[tap * columns + i / taps] = value;
  }
  device::barrier();
}

LASFAST_DEVICE void multiply(Chunk& sum, const Chunk& v, const Chunk& w) {
  LASFAST_UNROLL
  for (int i = 0; i < chunk; ++i) sum.v[i] += v.v[i] * w.v[i];
}

LASFAST_DEVICE Chunk weights_at(const float* from) {
  return unpack_halves(device::load16_shared(from), device::load16_shared(from + 4));
}

// Stores the outputs from `first` on, and keeps them for statistics.
template <int bytes, typename T>
LASFAST_DEVICE void finish(const DepthwiseArgs& args, const Tile& tile, int channel, int position,
                           const Chunk& sum, float* values) {
  T* const to = static_cast<T*>(args.output) + int64_t{position} * args.channels + channel;
  store_channels<bytes>(to, sum, args.channels - channel);
  if (!args.partial) return;
  float* const keep = values + (position - tile.first) * args.across * chunk + (channel - tile.column);
  LASFAST_UNROLL
  for (int i = 0; i < chunk; ++i) keep[i] = sum.v[i];
}

LASFAST_DEVICE void statistics(const DepthwiseArgs& args, const Tile& tile, const float* values,
                               Moments* moments) {
  if (!args.partial) return;
  device::barrier();
  const int columns = args.across * chunk, thread = device::thread_index();
  const Column column = column_moments(values, columns, tile.end - tile.first, columns, moments);
  device::barrier();  // the next tile's values may come
  if (thread >= columns || tile.column + thread >= args.channels) return;
  store_moments(column, args.partial, tile.number, args.channels, tile.column + thread);
}

template <typename T, int bytes, int K, int S>
LASFAST_KERNEL(block_threads, 1)
slide(const DepthwiseArgs args) {
  device::wait_for_earlier();
  device::let_next_begin();
  constexpr int seen = (run - 1) * S + K;  // columns of the input
  auto* const shared = device::shared<Shared>();
  auto* const weights = reinterpret_cast<float*>(shared + 1);
  Tile tile(args);
  const int columns = args.across * chunk;
  float* const values = weights + K * K * columns;
  load_weights(args, tile.column, weights);
  const int column = device::thread_index() % args.across * chunk, channel = tile.column + column;
  const bool busy = tile.row < args.rows / run && channel < args.channels;
  for (; tile.some(args); tile.advance(args)) {
    const int begin = busy ? tile.first + tile.row * run : tile.end;
    for (int first = begin; first < begin + run && first < tile.end;) {
      // As many as are in one row of the output.
      const Grid::Position at = args.grid(first);
      int count = args.out_width - at.x;
      if (count > begin + run - first) count = begin + run - first;
      if (count > tile.end - first) count = tile.end - first;
      const int top = at.y * S - args.padding, left = at.x * S - args.padding;
      const T* const image = static_cast<const T*>(args.input) +
                             int64_t{at.image} * args.in_height * args.in_width * args.channels + channel;
      Chunk sum[run] = {};
      LASFAST_ROLL
      for (int r = 0; r < K; ++r) {
        if (top + r < 0 || top + r >= args.in_height) continue;
        const T* const line = image + int64_t{top + r} * args.in_width * args.channels;
        Raw<T, bytes> raw[seen];
        LASFAST_UNROLL
        for (int s = 0; s < seen; ++s)
          if (left + s >= 0 && left + s < args.in_width && s < (count - 1) * S + K)
            raw[s].load(line + int64_t{left + s} * args.channels, args.channels - channel);
        Chunk w[K];
        LASFAST_UNROLL
        for (int s = 0; s < K; ++s) w[s] = weights_at(weights + (r * K + s) * columns + column);
        LASFAST_UNROLL
        for (int s = 0; s < seen; ++s) {
          if (left + s < 0 || left + s >= args.in_width || s >= (count - 1) * S + K) continue;
          const Chunk v = raw[s].values();
          LASFAST_UNROLL
          for (int i = 0; i < run; ++i)
            if (s - i * S >= 0 && s - i * S < K) multiply(sum[i], v, w[s - i * S]);
        }
      }
      LASFAST_UNROLL
      for (int i = 0; i < run; ++i)
        if (i < count) finish<bytes, T>(args, tile, channel, first + i, sum[i], values);
      first += count;
    }
    statistics(args, tile, values, &shared->moments);
  }
}

template <typename T, int bytes>
LASFAST_KERNEL(block_threads, 1)
gather(const DepthwiseArgs args) {
  device::wait_for_earlier();
  device::let_next_begin();
  auto* const shared = device::shared<Shared>();
  auto* const weights = reinterpret_cast<float*>(shared + 1);
  Tile tile(args);
  const int columns = args.across * chunk, kernel = args.kernel;
  float* const values = weights + kernel * kernel * columns;
  load_weights(args, tile.column, weights);
  const int column = device::thread_index() % args.across * chunk, channel = tile.column + column;
  const bool busy = tile.row < args.rows / run && channel < args.channels;
  // Which taps a position meets: every one, or those of its residue.
  const int tap_step = args.transposed ? args.stride : 1;
  for (; tile.some(args); tile.advance(args)) {
    const int begin = busy ? tile.first + tile.row * run : tile.end;
    for (int position = begin; position < begin + run && position < tile.end; ++position) {
      const Grid::Position at = args.grid(position);
      const int y = args.transposed ? at.y + args.padding : at.y * args.stride - args.padding;
      const int x = args.transposed ? at.x + args.padding : at.x * args.stride - args.padding;
      const int first_r = args.transposed ? y % args.stride : 0,
                first_s = args.transposed ? x % args.stride : 0;
      const T* const image = static_cast<const T*>(args.input) +
                             int64_t{at.image} * args.in_height * args.in_width * args.channels + channel;
      Chunk sum = {};
      for (int r = first_r; r < kernel; r += tap_step) {
        const int from_y = args.transposed ? (y - r) / args.stride : y + r;
        if (from_y < 0 || from_y >= args.in_height || (args.transposed && r > y)) continue;
        for (int s = first_s; s < kernel; s += tap_step) {
          const int from_x = args.transposed ? (x - s) / args.stride : x + s;
          if (from_x < 0 || from_x >= args.in_width || (args.transposed && s > x)) continue;
          Raw<T, bytes> raw;
          raw.load(image + (int64_t{from_y} * args.in_width + from_x) * args.channels,
                   args.channels - channel);
          multiply(sum, raw.values(), weights_at(weights + (r * kernel + s) * columns + column));
        }
      }
      finish<bytes, T>(args, tile, channel, position, sum, values);
    }
    statistics(args, tile, values, &shared->moments);
  }
}

using Kernel = void (*)(DepthwiseArgs);

template <typename T, int bytes>
Kernel kernel_for(const DepthwiseArgs& args) {
  if (args.transposed || args.stride > 2) return gather<T, bytes>;
  const bool one = args.stride == 1;
  switch (args.kernel) {
    case 3:
      return one ? slide<T, bytes, 3, 1> : slide<T, bytes, 3, 2>;
    case 5:
      return one ? slide<T, bytes, 5, 1> : slide<T, bytes, 5, 2>;
    case 7:
      return one ? slide<T, bytes, 7, 1> : slide<T, bytes, 7, 2>;
    default:
      return gather<T, bytes>;
  }
}

template <typename T>
int launch_of(const DepthwiseArgs& args, const DepthwiseTiling& tiling, device::Stream stream) {
  const int bytes = access_bytes<T>(args.channels, args.input, args.output);
  Kernel kernel = bytes == 16 ? kernel_for<T, 16>(args) : kernel_for<T, 4>(args);
  if constexpr (sizeof(T) == 2)
    if (bytes == 2) kernel = gather<T, 2>;
  const int64_t floats =
      (int64_t{args.kernel} * args.kernel + (args.partial ? tiling.rows : 0)) * tiling.columns;
  return device::launch(kernel, args.row_blocks * tiling.column_tiles, block_threads,
                        sizeof(Shared) + floats * int64_t{sizeof(float)}, stream, args);
}

}  // namespace

DepthwiseTiling::DepthwiseTiling(const DepthwiseNhwcParams& p, Pass pass)
    : across(chunks_across(p.channels)), columns(across * chunk), rows(block_threads / across * run) {
  const bool forward = pass == Pass::forward;
  const int64_t positions = p.batch * (forward ? p.out_height : p.height) * (forward ? p.out_width : p.width);
  row_tiles = divide_up(positions, rows);
  column_tiles = divide_up(p.channels, columns);
}

int launch_depthwise(const DepthwiseNhwcParams& p, Pass pass, const void* input, const void* weight,
                     device::Stream stream, void* output, float* partial) {
  const DepthwiseTiling tiling(p, pass);
  const bool forward = pass == Pass::forward, turned = !forward && p.stride == 1;
  const int64_t height = forward ? p.out_height : p.height, width = forward ? p.out_width : p.width;
  DepthwiseArgs args{input,
                     weight,
                     {p.weight_stride[0], p.weight_stride[1], p.weight_stride[2]},
                     p.weight_dtype == Dtype::bfloat16,
                     output,
                     partial,
                     {Divisor(width), Divisor(height)},
                     static_cast<int>(p.batch * height * width),
                     static_cast<int>(forward ? p.height : p.out_height),
                     static_cast<int>(forward ? p.width : p.out_width),
                     static_cast<int>(width),
                     static_cast<int>(p.channels),
                     static_cast<int>(p.kernel),
                     static_cast<int>(p.stride),
                     static_cast<int>(turned ? p.kernel - 1 - p.padding : p.padding),
                     turned,
                     !forward && !turned,
                     tiling.across,
                     tiling.rows,
                     static_cast<int>(tiling.column_tiles),
                     tiling.row_tiles,
                     std::min(tiling.row_tiles, divide_up(wanted_blocks, tiling.column_tiles))};
  return p.storage == Dtype::bfloat16 ? launch_of<device::bfloat16>(args, tiling, stream)
                                      : launch_of<float>(args, tiling, stream);
}

}  // namespace lasfast
