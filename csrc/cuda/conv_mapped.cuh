// The main loop of convolutions whose operands Hopper copies by itself, by tensor maps (tensor_map.h): one
// thread, of a warp of its own, asks for the copies of a step of k, and the warpgroups that multiply spend no
// instruction on them.
//
// Each stage has two barriers. At `full`, those who multiply wait for its copies; at `empty`, the thread that
// copies waits for them to be done with what was there before.
#pragma once

#include "conv_mainloop.cuh"
#include "conv_products.cuh"

namespace lasfast {

constexpr int mapped_step_bytes = 2 * device::mapped_elements;
constexpr int copying_thread = block_threads;  // the first behind those that multiply
constexpr int mapped_block_threads = block_threads + 32;

template <int BM, int BN>
struct MappedShared {
  ConvShared<BM, BN, mapped_step_bytes> conv;
  static constexpr int stages = sizeof(conv.stage) / sizeof(*conv.stage);
  device::CopyBarrier full[stages], empty[stages];

  // All threads of the block call it, and it holds behind the next barrier.
  LASFAST_DEVICE void begin() {
    if (device::thread_index() != 0) return;
    for (int i = 0; i < stages; ++i) {
      device::begin_phases(&full[i], 1);
      device::begin_phases(&empty[i], block_threads / 32);
    }
    device::publish_to_warpgroups();
  }
};

// A stage, and the parity of the phase that it is in; they come one after the other, and round again.
template <int stages>
struct StageAt {
  int number = 0, parity = 0;

  LASFAST_DEVICE void next() {
    if (++number < stages) return;
    number = 0;
    parity ^= 1;
  }
};

// What a tile multiplies: some windows, from one of an image on, and rows of the weight from `column` on.
struct MappedOperands {
  const device::TensorMap *windows, *weight;
  int image, x, y;  // x, y: the first column and row of the first window
  int column;
  int kernel_height, kernel_width;
};

// Copies `steps` steps of k, all taps in turn for the channels of one step, then for those of the next
// (k_order.cuh). One thread of the block calls it.
template <int BM, int BN>
LASFAST_DEVICE void copy_steps(MappedShared<BM, BN>& shared, int steps, const MappedOperands& from) {
  device::see_tensor_map(from.windows);
  device::see_tensor_map(from.weight);
  StageAt<MappedShared<BM, BN>::stages> at;
  int channel = 0, tap_x = 0, tap_y = 0;
  LASFAST_ROLL
  for (int step = 0; step < steps; ++step, at.next()) {
    auto& stage = shared.conv.stage[at.number];
    auto* const full = &shared.full[at.number];
    device::wait_for_phase(&shared.empty[at.number], at.parity ^ 1);  // at once, the first time round
    device::arrive_expecting(full, sizeof stage);
    device::copy_windows_async(stage.a, from.windows, full, channel, from.x, from.y, from.image, tap_x,
                               tap_y);
    device::copy_rows_async(stage.b, from.weight, full, step * device::mapped_elements, from.column);
    if (++tap_x < from.kernel_width) continue;
    tap_x = 0;
    if (++tap_y < from.kernel_height) continue;
    tap_y = 0;
    channel += device::mapped_elements;
  }
}

// Adds the products of `steps` steps of k, as they come. All threads but the warp that copies call it, and
// behind it all their products are done.
template <typename Product, int BM, int BN>
LASFAST_DEVICE void add_copied_steps(Product& product, MappedShared<BM, BN>& shared, int steps) {
  using G = Geometry<BM, BN, true>;
  static_assert(Product::step_bytes == mapped_step_bytes && Product::in_flight == 1);
  const int first_row = G::first_row(), first_column = G::first_column();
  StageAt<MappedShared<BM, BN>::stages> at;
  int before = 0;  // the stage of the step before
  LASFAST_ROLL
  for (int step = 0; step < steps; ++step, at.next()) {
    const auto& stage = shared.conv.stage[at.number];
    device::wait_for_phase(&shared.full[at.number], at.parity);
    product.add(stage.a, stage.b, first_row, first_column);
    device::warp_barrier();  // behind it, the products of the step before are done, of the whole warp
    if (step > 0 && device::thread_index() % 32 == 0) device::arrive(&shared.empty[before]);
    before = at.number;
  }
  product.finish();
}

}  // namespace lasfast
