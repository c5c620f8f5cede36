// The convolutions and linear operations of a schedule whose operands Hopper copies by tensor maps: those of
// schedule_conv.cu in tiles of warpgroups, without a norm or an activation of the input, of whole steps of
// channels. They give the same bits.
#include <utility>

#include "conv_mapped.cuh"
#include "schedule_conv.cuh"
#include "schedule_kernels.cuh"

namespace lasfast {
namespace {

template <int BM, int BN>
struct Shared {
  MappedShared<BM, BN> mapped;
  Problem problem;
};

template <int BM, int BN>
LASFAST_DEVICE void conv_tile(const PassArgs& pass) {
  using G = Geometry<BM, BN, true>;
  using Product = WarpgroupProduct<device::bfloat16, G::rows, G::columns>;
  auto* const shared = device::shared<Shared<BM, BN>>();
  shared->mapped.begin();
  int number;
  const Problem& p = find_problem(pass, &shared->problem, &number);
  const Tile tile(pass, p);
  if (tile.empty()) return;
  const int steps = p.depth / device::mapped_elements;
  if (device::thread_index() >= copying_thread) {
    if (device::thread_index() > copying_thread) return;
    const Position at(p, tile.first);
    const device::TensorMap* const maps = pass.maps + 2 * number;
    copy_steps(shared->mapped, steps,
               {maps, maps + 1, static_cast<int>(at.image), at.x * p.stride - p.padding,
                at.y * p.stride - p.padding, tile.column, p.kernel_height, p.kernel_width});
    return;
  }
  device::note_tile("schedule", "tensor maps", BM, BN, true);
  Product product;
  add_copied_steps(product, shared->mapped, steps);
  finish_tile(product, shared->mapped.conv,
              [&](auto& result) { store_tile<device::bfloat16>(pass, p, tile, result); });
}

// Where there are no tensor maps, no block of this is launched: its bounds allow too few threads.
template <int BM, int BN>
LASFAST_KERNEL(device::has_tensor_maps ? mapped_block_threads : 32, (BM * BN <= 128 * 128 ? 2 : 1))
mapped_conv(const PassArgs pass) {
  if constexpr (device::has_tensor_maps) conv_tile<BM, BN>(pass);
}

// ---- kernels by the number of their tile

using Tiles = std::make_index_sequence<cuda_conv_tile_count>;
using Kernel = void (*)(PassArgs);

template <size_t number>
constexpr Kernel kernel_of() {
  constexpr CudaConvTile tile = cuda_conv_tiles[number];
  if constexpr (tile.warpgroups)
    return mapped_conv<tile.rows, tile.columns>;
  else
    return nullptr;
}

template <size_t... numbers>
Kernel kernel_of(int number, std::index_sequence<numbers...>) {
  constexpr Kernel kernels[] = {kernel_of<numbers>()...};
  return kernels[number];
}

template <size_t... numbers>
int64_t shared_bytes(int number, std::index_sequence<numbers...>) {
  constexpr int64_t bytes[] = {
      sizeof(Shared<cuda_conv_tiles[numbers].rows, cuda_conv_tiles[numbers].columns>)...};
  return bytes[number];
}

}  // namespace

int launch_mapped_conv(const Launch& launch, const PassArgs& pass, device::Stream stream) {
  const int tile = static_cast<int>(launch.work);
  return device::launch(kernel_of(tile, Tiles{}), launch.blocks, mapped_block_threads,
                        shared_bytes(tile, Tiles{}), stream, pass, pass.early);
}

bool has_tensor_maps() { return device::allowed_threads(mapped_conv<128, 64>) >= mapped_block_threads; }

}  // namespace lasfast
