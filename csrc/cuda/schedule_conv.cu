// Convolutions and linear operations of a schedule as matrix products: rows are output positions, columns
// output channels, and k is (tap, input channel), read 64 bytes at a time in the order of k_order.cuh.
//
// Copies to shared memory run two or three steps ahead of the products. Where the input has a norm or an
// activation, each thread applies it to the pieces that it copied itself, once they have come; padding stays
// zero. The sums go through shared memory once more, for statistics and so that whole chunks are finished and
// stored.
#include <utility>

#include "conv_tile.cuh"
#include "k_order.cuh"
#include "schedule_kernels.cuh"
#include "schedule_products.cuh"
#include "schedule_values.cuh"

namespace lasfast {
namespace {

// Scale and shift of the input's channels follow.
template <int BM, int BN>
struct Shared {
  Problem problem;
  union {
    Stage<BM, BN> stage[stages];
    Result<BM, BN> result;
  };
};

// The input under the windows of the rows that a thread copies from.
template <typename T, int copies>
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
    return at.channel < p.input.pitch && y >= 0 && y < p.input.height && x >= 0 && x < p.input.width;
  }
  LASFAST_DEVICE const T* address(const Problem& p, const Walk& at, int i) const {
    return image[i] +
           (static_cast<int64_t>(top[i] + at.row) * p.input.width + left[i] + at.column) * p.input.pitch +
           at.channel;
  }
};

// scale * x + shift and the activation, for the 16 bytes at `at`.
LASFAST_DEVICE void transform(const float* scale, const float* shift, Activation activation, void* at,
                              device::bfloat16) {
  Chunk x = unpack(device::load16_shared(at));
  LASFAST_UNROLL
  for (int i = 0; i < chunk; ++i) x.v[i] = x.v[i] * scale[i] + shift[i];
  activate(x.v, activation);
  device::store16(at, pack_values(x));
}
LASFAST_DEVICE void transform(const float* scale, const float* shift, Activation activation, void* at,
                              float) {
  device::Bits16 bits = device::load16_shared(at);
  float x[4];
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) x[i] = device::float_of(bits.word[i]) * scale[i] + shift[i];
  activate(x, activation);
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) bits.word[i] = device::bits_of(x[i]);
  device::store16(at, bits);
}

template <typename T, int BM, int BN, bool warpgroups, template <typename, int, int> class ProductOf>
LASFAST_DEVICE void conv_tile(const PassArgs& pass) {
  using G = Geometry<BM, BN, warpgroups>;
  using Product = ProductOf<T, G::rows, G::columns>;
  using Result = lasfast::Result<BM, BN>;
  using Stage = lasfast::Stage<BM, BN>;
  constexpr int copies = BM / rows_at_once;  // rows of a tile that a thread copies from
  constexpr int piece_elements = 16 / sizeof(T), step_elements = conv_step_bytes / sizeof(T);
  auto* const shared = device::shared<Shared<BM, BN>>();
  find_problem(pass, &shared->problem);
  const Problem& p = shared->problem;
  const Tile tile(pass, p);
  if (tile.empty()) return;
  const int thread = device::thread_index();
  const int piece = thread % pieces, row = thread / pieces;

  const bool transformed = p.input.norm >= 0 || p.input.activation != Activation::none;
  auto* const scale = reinterpret_cast<float*>(shared + 1);
  float* const shift = scale + p.input.pitch;
  if (transformed)
    for (int c = thread; c < p.input.pitch; c += schedule_threads) {
      const bool norm = p.input.norm >= 0 && c < p.input.channels;
      scale[c] = norm ? pass.scale[p.input.norm + c] : 1.f;
      shift[c] = norm ? pass.shift[p.input.norm + c] : 0.f;
    }
  device::barrier();

  const Windows<T, copies> windows(pass, p, tile);
  Walk ahead(run_of(p.input.pitch, step_elements));
  for (int i = 0; i < piece; ++i) ahead.advance<piece_elements>(p.kernel_width, p.kernel_height);
  Walk here = ahead;
  const int steps = p.depth / step_elements;
  const auto* const weight = reinterpret_cast<const T*>(pass.weights + p.weight);

  const auto fill = [&](Stage& stage, int step) {
    LASFAST_UNROLL
    for (int i = 0; i < copies; ++i) {
      const bool inside = windows.inside(p, ahead, i);
      device::copy16_async_cached(stage.a + piece_offset(row + i * rows_at_once, piece),
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
    ahead.advance<step_elements>(p.kernel_width, p.kernel_height);
  };
  const auto arrived = [&](Stage& stage) {
    if (transformed) {
      LASFAST_UNROLL
      for (int i = 0; i < copies; ++i)
        if (windows.inside(p, here, i))
          transform(scale + here.channel, shift + here.channel, p.input.activation,
                    stage.a + piece_offset(row + i * rows_at_once, piece), T{});
      here.advance<step_elements>(p.kernel_width, p.kernel_height);
    }
    Product::publish();
  };
  Product product;
  const int first_row = G::first_row(), first_column = G::first_column();
  pipeline<Product::in_flight>(shared->stage, steps, fill, arrived, [&](const Stage& stage) {
    product.add(stage.a + first_row * conv_step_bytes, stage.b + first_column * conv_step_bytes);
  });
  product.finish();
  device::barrier();

  Result& result = shared->result;
  product.store(result.values + first_row * Result::pitch + first_column, Result::pitch);
  device::barrier();
  if (p.partial >= 0) take_statistics(pass, p, tile, result.values, Result::pitch, &result.moments);
  constexpr int across = BN / chunk;
  const int column = thread % across * chunk;
  if (tile.column + column >= p.out_pitch) return;
  const Finish<T> finish(pass, p, tile.column + column);
  for (int64_t m = thread / across; m < tile.end - tile.first; m += schedule_threads / across) {
    Chunk x;
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) x.v[i] = result.values[m * Result::pitch + column + i];
    finish.store(x, tile.first + m);
  }
}

template <typename T, int BM, int BN, template <typename, int, int> class Product>
LASFAST_KERNEL(schedule_threads, 1)
conv(const PassArgs pass) {
  conv_tile<T, BM, BN, false, Product>(pass);
}

// Where there are no warpgroups no block of this is launched: it may not have as many threads as it takes.
template <typename T, int BM, int BN>
LASFAST_KERNEL(device::has_warpgroups ? schedule_threads : 32, 1)
warpgroup_conv(const PassArgs pass) {
  if constexpr (device::has_warpgroups) conv_tile<T, BM, BN, true, WarpgroupProduct>(pass);
}

// ---- by the numbers of tiles

using Tiles = std::make_index_sequence<cuda_conv_tile_count>;
using Kernel = void (*)(PassArgs);

template <typename T, template <typename, int, int> class Product, size_t number>
constexpr Kernel kernel_of() {
  constexpr CudaConvTile tile = cuda_conv_tiles[number];
  if constexpr (!tile.warpgroups)
    return conv<T, tile.rows, tile.columns, Product>;
  else if constexpr (sizeof(T) == 2)
    return warpgroup_conv<T, tile.rows, tile.columns>;
  else
    return nullptr;
}

template <typename T, template <typename, int, int> class Product, size_t... numbers>
Kernel kernel_of(int number, std::index_sequence<numbers...>) {
  constexpr Kernel kernels[] = {kernel_of<T, Product, numbers>()...};
  return kernels[number];
}

template <size_t... numbers>
int64_t shared_bytes(int number, std::index_sequence<numbers...>) {
  constexpr int64_t bytes[] = {
      sizeof(Shared<cuda_conv_tiles[numbers].rows, cuda_conv_tiles[numbers].columns>)...};
  return bytes[number];
}

}  // namespace

int64_t conv_shared_bytes(Work work, int64_t input_pitch) {
  return shared_bytes(static_cast<int>(work), Tiles{}) + 2 * input_pitch * int64_t{sizeof(float)};
}

int launch_conv(const Launch& launch, bool bfloat16, bool tf32, const PassArgs& pass, device::Stream stream) {
  const int tile = static_cast<int>(launch.work);
  auto* const kernel = bfloat16 ? kernel_of<device::bfloat16, TensorProduct>(tile, Tiles{})
                       : tf32   ? kernel_of<float, TensorProduct>(tile, Tiles{})
                                : kernel_of<float, ExactProduct>(tile, Tiles{});
  return device::launch(kernel, launch.blocks, schedule_threads, launch.shared_bytes, stream, pass);
}

bool has_warpgroups() {
  return device::allowed_threads(warpgroup_conv<device::bfloat16, 128, 64>) >= schedule_threads;
}

}  // namespace lasfast
