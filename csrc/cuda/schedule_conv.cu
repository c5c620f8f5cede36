// The convolutions and linear operations of a schedule, by the main loop of conv_mainloop.cuh.
//
// Where the input has a norm or an activation, each thread applies it to the pieces that it copied itself,
// once they have come; padding stays zero. The epilogue takes statistics, and finishes and stores whole
// chunks.
#include <utility>

#include "conv_loader.cuh"
#include "schedule_conv.cuh"
#include "schedule_kernels.cuh"

namespace lasfast {
namespace {

constexpr int step_bytes_of(bool warpgroups) {
  return warpgroups ? WarpgroupProduct<device::bfloat16, 64, 64>::step_bytes : conv_step_bytes;
}

// A block's shared memory. Behind it lie scale and shift of the input's channels.
template <int BM, int BN, bool warpgroups>
struct Shared {
  WindowShared<BM, BN, step_bytes_of(warpgroups)> windows;
  Problem problem;
};

// The transform that applies the norm and the activation of the input.
struct Normalize {
  bool some;
  const Term& input;
  const float* scale;  // and, behind those of all channels, shift

  template <typename T>
  LASFAST_DEVICE void operator()(char* at, int channel, bool inside, T type) const {
    auto x = unpack_values(device::load16_shared(at), type);
    constexpr int elements = 16 / sizeof(T);
    // Behind the last channel there is nothing inside.
    const float *const factor = scale + (inside ? channel : 0), *const shift = factor + input.pitch;
    LASFAST_UNROLL
    for (int i = 0; i < elements; ++i) x.v[i] = x.v[i] * factor[i] + shift[i];
    activate(x.v, input.activation);
    const device::Bits16 bits = pack_values(x);
    device::store16(at, inside ? bits : device::Bits16{});
  }
};

// Copies scale and shift of the input's channels to shared memory; another barrier has to follow.
LASFAST_DEVICE Normalize load_norm(const PassArgs& pass, const Term& input, float* to) {
  const bool some = input.norm >= 0 || input.activation != Activation::none;
  float *const scale = to, *const shift = to + input.pitch;
  if (some)
    for (int c = device::thread_index(); c < input.pitch; c += block_threads) {
      const bool norm = input.norm >= 0 && c < input.channels;
      scale[c] = norm ? pass.scale[input.norm + c] : 1.f;
      shift[c] = norm ? pass.shift[input.norm + c] : 0.f;
    }
  return {some, input, scale};
}

// The window of an output position; there is none for the rows of a tile behind its last position.
template <typename T>
LASFAST_DEVICE Window<T> window_at(const PassArgs& pass, const Problem& p, int64_t position, bool some) {
  const Position at(p, position);
  return {static_cast<const T*>(pass.arena) + p.input.offset +
              at.image * p.input.height * p.input.width * p.input.pitch,
          at.y * p.stride - p.padding, at.x * p.stride - p.padding, some};
}

template <typename T, int BM, int BN, bool warpgroups, template <typename, int, int> class ProductOf>
LASFAST_DEVICE void conv_tile(const PassArgs& pass) {
  using G = Geometry<BM, BN, warpgroups>;
  using Product = ProductOf<T, G::rows, G::columns>;
  constexpr int step_bytes = Product::step_bytes;
  auto* const shared = device::shared<Shared<BM, BN, warpgroups>>();
  const Problem& p = find_problem(pass, &shared->problem);
  const Tile tile(pass, p);
  if (tile.empty()) return;
  device::note_tile("schedule", Product::name, BM, BN, true);
  const Normalize normalize = load_norm(pass, p.input, reinterpret_cast<float*>(shared + 1));
  device::barrier();

  const auto* const weight = reinterpret_cast<const T*>(pass.weights + p.weight);
  const ConvOperands operands{p.input.height,
                              p.input.width,
                              p.input.pitch,
                              p.kernel_height,
                              p.kernel_width,
                              p.padding > 0,
                              weight + int64_t{tile.column} * p.depth,
                              p.out_channels - tile.column,
                              p.depth};
  WindowLoader<T, BM, BN, step_bytes, true, Normalize> loader(
      operands, normalize, &shared->windows.taps,
      [&](int row) { return window_at<T>(pass, p, tile.first + row, tile.first + row < tile.end); });
  constexpr int step_elements = step_bytes / sizeof(T);
  const int steps = (p.depth + step_elements - 1) / step_elements;
  convolve_windows<Product>(shared->windows, steps, loader,
                            [&](auto& result) { store_tile<T>(pass, p, tile, result); });
}

// How many blocks a multiprocessor takes at once: two, so that one multiplies while the other waits, where
// registers suffice without spilling (tests/test_cuda_code.py). Where warpgroups multiply the widest tiles of
// bf16, warps would spill.
template <typename T, int BM, int BN, bool warpgroups>
constexpr int blocks_of(bool tensor_cores) {
  constexpr bool narrow = sizeof(T) == 2 && device::has_warpgroups && !warpgroups;
  const int most = !tensor_cores ? 64 * 32 : narrow ? 128 * 64 : 128 * 128;
  return BM * BN <= most ? 2 : 1;
}

template <typename T, int BM, int BN, template <typename, int, int> class Product>
LASFAST_KERNEL(block_threads, (blocks_of<T, BM, BN, false>(Product<T, 16, 16>::tensor_cores)))
conv(const PassArgs pass) {
  conv_tile<T, BM, BN, false, Product>(pass);
}

// Where there are no warpgroups, no block of this is launched: its bounds allow too few threads.
template <typename T, int BM, int BN>
LASFAST_KERNEL(device::has_warpgroups ? block_threads : 32, (blocks_of<T, BM, BN, true>(true)))
warpgroup_conv(const PassArgs pass) {
  if constexpr (device::has_warpgroups) conv_tile<T, BM, BN, true, WarpgroupProduct>(pass);
}

// ---- kernels by the number of their tile

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
  constexpr int64_t bytes[] = {sizeof(Shared<cuda_conv_tiles[numbers].rows, cuda_conv_tiles[numbers].columns,
                                             cuda_conv_tiles[numbers].warpgroups>)...};
  return bytes[number];
}

}  // namespace

int64_t conv_shared_bytes(Work work, int64_t input_pitch) {
  return shared_bytes(static_cast<int>(work), Tiles{}) + 2 * input_pitch * int64_t{sizeof(float)};
}

int launch_conv(const Launch& launch, bool bfloat16, bool tf32, const PassArgs& pass, device::Stream stream) {
  if (launch.first_map >= 0) return launch_mapped_conv(launch, pass, stream);
  const int tile = static_cast<int>(launch.work);
  auto* const kernel = bfloat16 ? kernel_of<device::bfloat16, TensorProduct>(tile, Tiles{})
                       : tf32   ? kernel_of<float, TensorProduct>(tile, Tiles{})
                                : kernel_of<float, ExactProduct>(tile, Tiles{});
  return device::launch(kernel, launch.blocks, block_threads, launch.shared_bytes, stream, pass, pass.early);
}

bool has_warpgroups() {
  return device::allowed_threads(warpgroup_conv<device::bfloat16, 128, 64>) >= block_threads;
}

}  // namespace lasfast
