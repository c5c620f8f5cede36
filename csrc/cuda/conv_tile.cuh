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

// How a tile of BM positions and BN channels is divided among teams of threads: warps, or warpgroups, which
// have rows alone.
template <int BM, int BN, bool warpgroups = false>
struct Geometry {
  static constexpr int team_threads = warpgroups ? 128 : 32;
  static constexpr int teams_n = warpgroups || BN == 16 ? 1 : BN == 128 ? 4 : 2;
  static constexpr int teams_m = schedule_threads / team_threads / teams_n;
  static constexpr int rows = BM / teams_m, columns = BN / teams_n;  // of a team

  LASFAST_DEVICE static int first_row() { return device::thread_index() / team_threads / teams_n * rows; }
  LASFAST_DEVICE static int first_column() {
    return device::thread_index() / team_threads % teams_n * columns;
  }
};

template <int BM, int BN>
struct Stage {
  alignas(512) char a[BM * conv_step_bytes];  // as warpgroups want it
  char b[BN * conv_step_bytes];
};

template <int BM, int BN>
struct Result {
  static constexpr int pitch = BN + 4;
  alignas(16) float values[BM * pitch];
  Moments moments;
};

// Sums a tile over `steps` of k. fill(stage, step) begins to copy a step, or copies it; arrived(stage) is
// called once the thread's own copies have come, and may change these; add(stage) multiplies what all have
// brought, and may leave the products of so many steps under way. Steps are filled, have arrived and are
// added in order; all threads of the block call this, and may reuse the stages' memory behind a barrier.
template <int in_flight, typename Stage, typename Fill, typename Arrived, typename Add>
LASFAST_DEVICE void pipeline(Stage* stage, int steps, Fill fill, Arrived arrived, Add add) {
  constexpr int ahead = stages - 1 - in_flight;
  LASFAST_ROLL
  for (int step = 0; step < ahead; ++step) {
    if (step < steps) fill(stage[step], step);
    device::copy_commit();
  }
  LASFAST_ROLL
  for (int step = 0; step < steps; ++step) {
    device::copy_wait<ahead - 1>();
    arrived(stage[step % stages]);
    device::barrier();  // this step has come, and everybody is done with the last that is not under way
    const int next = step + ahead;
    if (next < steps) fill(stage[next % stages], next);
    device::copy_commit();
    add(stage[step % stages]);
  }
  device::copy_wait<0>();
}

}  // namespace lasfast
