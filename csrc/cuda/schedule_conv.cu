// Convolutions and linear operations of a schedule as matrix products: rows are output positions, columns
// output channels, and k is (tap, input channel), read 64 bytes at a time.
//
// Copies to shared memory run three steps ahead of the products. Where the input has a norm or an activation,
// each thread applies it to the pieces that it copied itself, once they have come; padding stays zero. The
// sums go through shared memory once more, for statistics and so that whole chunks are finished and stored.
#include "conv_tile.cuh"
#include "schedule_kernels.cuh"
#include "schedule_products.cuh"
#include "schedule_values.cuh"

namespace lasfast {
namespace {

// Scale and shift of the input's channels follow.
template <int BN>
struct Shared {
  Problem problem;
  union {
    Stage<BN> stage[stages];
    Result<BN> result;
  };
};

// The input under the windows of the rows that a thread copies from.
template <typename T>
struct Windows {
  const T* image[copies];
  int top[copies], left[copies];

  LASFAST_DEVICE Windows(const PassArgs& pass, const Problem& p, const Tile& tile) {
    LASFAST_UNROLL
    for (int i = 0; i < copies; ++i) {
      const int64_t position = tile.first + device::thread_index() / pieces + i * rows_at_once;
      const auto at = static_cast<uint32_t>(position);
      const int x = static_cast<int>(at % p.out_width), y = static_cast<int>(at / p.out_width % p.out_height);
      const int64_t number = at / p.out_width / p.out_height;
      image[i] = static_cast<const T*>(pass.arena) + p.input.offset +
                 number * p.input.height * p.input.width * p.input.pitch;
      // Rows of a tile beyond the last position see nothing but padding.
      top[i] = position < tile.end ? y * p.stride - p.padding : -(1 << 30);
      left[i] = x * p.stride - p.padding;
    }
  }
  LASFAST_DEVICE bool inside(const Problem& p, const Walk& at, int i) const {
    const int y = top[i] + at.row, x = left[i] + at.column;
    return at.row < p.kernel_height && y >= 0 && y < p.input.height && x >= 0 && x < p.input.width;
  }
  LASFAST_DEVICE const T* address(const Problem& p, const Walk& at, int i) const {
    return image[i] +
           (static_cast<int64_t>(top[i] + at.row) * p.input.width + left[i] + at.column) * p.input.pitch +
           at.channel;
  }
};

// scale * x + shift and the activation, for the 16 bytes at `at`.
LASFAST_DEVICE void transform(const float* scale, const float* shift, int32_t activation, void* at,
                              device::bfloat16) {
  Chunk x = unpack(device::load16_shared(at));
  LASFAST_UNROLL
  for (int i = 0; i < chunk; ++i) x.v[i] = x.v[i] * scale[i] + shift[i];
  activate(x.v, activation);
  device::store16(at, pack_values(x));
}
LASFAST_DEVICE void transform(const float* scale, const float* shift, int32_t activation, void* at, float) {
  device::Bits16 bits = device::load16_shared(at);
  float x[4];
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) x[i] = device::float_of(bits.word[i]) * scale[i] + shift[i];
  activate(x, activation);
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) bits.word[i] = device::bits_of(x[i]);
  device::store16(at, bits);
}

template <typename T, int BN, template <typename, int, int> class Product>
LASFAST_KERNEL(schedule_threads, 1)
conv(const PassArgs pass) {
  using G = Geometry<BN>;
  constexpr int piece_elements = 16 / sizeof(T), step_elements = conv_step_bytes / sizeof(T);
  auto* const shared = device::shared<Shared<BN>>();
  find_problem(pass, &shared->problem);
  const Problem& p = shared->problem;
  const Tile tile(pass, p);
  if (tile.empty()) return;
  const int thread = device::thread_index(), warp = thread / 32;
  const int piece = thread % pieces, row = thread / pieces;

  const bool transformed = p.input.norm >= 0 || p.input.activation != 0;
  auto* const scale = reinterpret_cast<float*>(shared + 1);
  float* const shift = scale + p.input.pitch;
  if (transformed)
    for (int c = thread; c < p.input.pitch; c += schedule_threads) {
      const bool norm = p.input.norm >= 0 && c < p.input.channels;
      scale[c] = norm ? pass.scale[p.input.norm + c] : 1.f;
      shift[c] = norm ? pass.shift[p.input.norm + c] : 0.f;
    }
  device::barrier();

  const Windows<T> windows(pass, p, tile);
  Walk ahead = {0, 0, 0};
  for (int i = 0; i < piece; ++i) ahead.advance<piece_elements>(p.input.pitch, p.kernel_width);
  Walk here = ahead;
  const int steps = p.depth / step_elements;
  const auto* const weight = reinterpret_cast<const T*>(pass.weights + p.weight);

  const auto fill = [&](Stage<BN>& stage, int step) {
    LASFAST_UNROLL
    for (int i = 0; i < copies; ++i) {
      const bool inside = windows.inside(p, ahead, i);
      device::copy16_async(stage.a + piece_offset(row + i * rows_at_once, piece),
                           inside ? windows.address(p, ahead, i) : windows.image[i], inside);
    }
    LASFAST_UNROLL
    for (int n = row; n < BN; n += rows_at_once) {
      const int c = tile.column + n;
      const bool inside = c < p.out_channels;
      const int64_t at =
          static_cast<int64_t>(inside ? c : 0) * p.depth + step * step_elements + piece * piece_elements;
      device::copy16_async(stage.b + piece_offset(n, piece), weight + at, inside);
    }
    ahead.advance<step_elements>(p.input.pitch, p.kernel_width);
  };
  const auto arrived = [&](Stage<BN>& stage) {
    if (!transformed) return;
    LASFAST_UNROLL
    for (int i = 0; i < copies; ++i)
      if (windows.inside(p, here, i))
        transform(scale + here.channel, shift + here.channel, p.input.activation,
                  stage.a + piece_offset(row + i * rows_at_once, piece), T{});
    here.advance<step_elements>(p.input.pitch, p.kernel_width);
  };
  Product<T, G::warp_rows, G::warp_columns> product;
  const int first_row = warp / G::warps_n * G::warp_rows, first_column = warp % G::warps_n * G::warp_columns;
  pipeline(shared->stage, steps, fill, arrived, [&](const Stage<BN>& stage) {
    product.add(stage.a + first_row * conv_step_bytes, stage.b + first_column * conv_step_bytes);
  });

  Result<BN>& result = shared->result;
  product.store(result.values + first_row * Result<BN>::pitch + first_column, Result<BN>::pitch);
  device::barrier();
  if (p.partial >= 0) take_statistics(pass, p, tile, result.values, Result<BN>::pitch, &result.moments);
  constexpr int across = BN / chunk;
  const int column = thread % across * chunk;
  if (tile.column + column >= p.out_pitch) return;
  const Finish<T> finish(pass, p, tile.column + column);
  for (int64_t m = thread / across; m < tile.end - tile.first; m += schedule_threads / across) {
    Chunk x;
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) x.v[i] = result.values[m * Result<BN>::pitch + column + i];
    finish.store(x, tile.first + m);
  }
}

template <typename T, template <typename, int, int> class Product>
int launch_of(const Launch& launch, const PassArgs& pass, device::Stream stream) {
  const auto run = [&](void (*kernel)(PassArgs)) {
    return device::launch(kernel, launch.blocks, schedule_threads, launch.shared_bytes, stream, pass);
  };
  switch (launch.work) {
    case Work::conv_16:
      return run(conv<T, 16, Product>);
    case Work::conv_32:
      return run(conv<T, 32, Product>);
    case Work::conv_64:
      return run(conv<T, 64, Product>);
    default:
      return run(conv<T, 128, Product>);
  }
}

}  // namespace

int64_t conv_shared_bytes(Work work, int64_t input_pitch) {
  const int64_t norm = 2 * input_pitch * int64_t{sizeof(float)};
  switch (work) {
    case Work::conv_16:
      return sizeof(Shared<16>) + norm;
    case Work::conv_32:
      return sizeof(Shared<32>) + norm;
    case Work::conv_64:
      return sizeof(Shared<64>) + norm;
    default:
      return sizeof(Shared<128>) + norm;
  }
}

int launch_conv(const Launch& launch, bool bfloat16, bool tf32, const PassArgs& pass, device::Stream stream) {
  if (bfloat16) return launch_of<device::bfloat16, TensorProduct>(launch, pass, stream);
  return tf32 ? launch_of<float, TensorProduct>(launch, pass, stream)
              : launch_of<float, ExactProduct>(launch, pass, stream);
}

}  // namespace lasfast
