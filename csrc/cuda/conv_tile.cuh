// What matrix products of convolutions share: how a tile of sums is divided among warps, and the loop in
// which copies to shared memory run ahead of the products.
#pragma once

#include "device.cuh"
#include "moments.cuh"
#include "schedule_problem.h"

namespace lasfast {

constexpr int stages = 4;
constexpr int pieces = conv_step_bytes / 16;             // of a row at a time
constexpr int rows_at_once = schedule_threads / pieces;  // a thread copies one piece of each such row
constexpr int copies = conv_rows / rows_at_once;         // rows of a tile that a thread copies from

template <int BN>
struct Geometry {
  static constexpr int warps_n = BN == 16 ? 1 : BN == 128 ? 4 : 2;
  static constexpr int warps_m = 8 / warps_n;
  static constexpr int warp_rows = conv_rows / warps_m, warp_columns = BN / warps_n;
};

template <int BN>
struct Stage {
  alignas(16) char a[conv_rows * conv_step_bytes];
  char b[BN * conv_step_bytes];
};

template <int BN>
struct Result {
  static constexpr int pitch = BN + 4;
  alignas(16) float values[conv_rows * pitch];
  Moments moments;
};

// Where a thread is in k: window row and column, channel.
struct Walk {
  int row, column, channel;

  template <int elements>
  LASFAST_DEVICE void advance(int channels, int window_width) {
    for (channel += elements; channel >= channels; channel -= channels)
      if (++column == window_width) column = 0, ++row;
  }
};

// Sums a tile over `steps` of k. fill(stage, step) begins to copy a step, or copies it; arrived(stage) is
// called once the thread's own copies have come, and may change these; add(stage) multiplies what all have
// brought. Steps are filled, have arrived and are added in order; all threads of the block call this, and may
// reuse the stages' memory behind it.
template <typename Stage, typename Fill, typename Arrived, typename Add>
LASFAST_DEVICE void pipeline(Stage* stage, int steps, Fill fill, Arrived arrived, Add add) {
  LASFAST_ROLL
  for (int step = 0; step < stages - 1; ++step) {
    if (step < steps) fill(stage[step], step);
    device::copy_commit();
  }
  LASFAST_ROLL
  for (int step = 0; step < steps; ++step) {
    device::copy_wait<stages - 2>();
    arrived(stage[step % stages]);
    device::barrier();  // this step has come, and everybody is done with the one before
    const int next = step + stages - 1;
    if (next < steps) fill(stage[next % stages], next);
    device::copy_commit();
    add(stage[step % stages]);
  }
  device::copy_wait<0>();
  device::barrier();
}

}  // namespace lasfast
