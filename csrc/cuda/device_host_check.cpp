// Kernels that try the stand-in itself: does it notice what a GPU would not, but compute wrongly?
#include <cstring>
#include <vector>

#include "conv_products.cuh"
#include "device_host.h"
#include "lasfast/device.h"

namespace lasfast::device {
namespace {

constexpr int rows = 64, rounds = 2, multiplying = 128;

struct Shared {
  alignas(1024) char a[128 * rows];
  char b[128 * rows];
  CopyBarrier full, empty;
};

struct Copies {
  const TensorMap* map;
  std::string without;
  float* sums;  // [64, 64]

  bool has(const char* part) const { return without != part; }
};

// In each round, one thread copies some rows twice, and a warpgroup adds the products of the two.
void multiply_copies(const Copies copies) {
  auto* const shared = device::shared<Shared>();
  const int thread = thread_index();
  if (thread == 0) {
    begin_phases(&shared->full, 1);
    begin_phases(&shared->empty, multiplying);
    if (copies.has("publish")) publish_to_warpgroups();
  }
  barrier();
  if (thread >= multiplying) {
    if (thread > multiplying) return;
    if (copies.has("see")) see_tensor_map(copies.map);
    for (int round = 0; round < rounds; ++round) {
      if (round > 0 && copies.has("release")) wait_for_phase(&shared->empty, round - 1);
      arrive_expecting(&shared->full, copies.has("bytes") ? 2 * 128 * rows : 3 * 128 * rows);
      copy_rows_async(shared->a, copies.map, &shared->full, mapped_elements * round, 0);
      copy_rows_async(shared->b, copies.map, &shared->full, mapped_elements * round, 0);
    }
    return;
  }
  WarpgroupProduct<bfloat16, rows, rows> product;
  for (int round = 0; round < rounds; ++round) {
    if (copies.has("wait")) wait_for_phase(&shared->full, round);
    product.add(shared->a, shared->b, 0, 0);
    if (copies.has("finish")) product.finish();
    arrive(&shared->empty);
  }
  product.finish();
  product.store(copies.sums, rows);
}

}  // namespace

std::string try_copies(const std::string& without) {
  // Row r has one element that is not zero: r + 1, at r in the first half and at r + 64 in the second.
  std::vector<bfloat16> values(rows * rounds * mapped_elements);
  for (int row = 0; row < rows; ++row)
    for (int round = 0; round < rounds; ++round)
      values[(row * rounds + round) * mapped_elements + row] =
          from_float<bfloat16>(static_cast<float>(row + 1));
  std::vector<char> aligned_values(2 * values.size() + 16);
  auto* const at =
      reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(aligned_values.data()) + 15) / 16 * 16);
  std::memcpy(at, values.data(), 2 * values.size());
  TensorMap map;
  if (describe(RowsMap{at, rows, rounds * mapped_elements, rows}, &map)) return "no map";
  std::vector<float> sums(rows * rows);
  const int error = launch(multiply_copies, 1, multiplying + 32, sizeof(Shared), nullptr,
                           Copies{&map, without, sums.data()});
  if (error) return cuda_error_text(error);
  for (int row = 0; row < rows; ++row)
    for (int column = 0; column < rows; ++column) {
      const auto right = static_cast<float>(row == column ? rounds * (row + 1) * (row + 1) : 0);
      if (sums[row * rows + column] != right) return "wrong sums";
    }
  return "no error";
}

}  // namespace lasfast::device
