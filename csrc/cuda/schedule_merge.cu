// The second stage of a schedule's statistics: those of an operation's tiles become a norm's mean, variance,
// scale and shift. A block has 32 channels. Each warp goes over every eighth tile, in double, and the warps'
// results are merged in order, so that they have the same bits every time.
#include "schedule_kernels.cuh"
#include "schedule_values.cuh"

namespace lasfast {
namespace {

constexpr int segments = block_threads / merge_columns;

// Statistics of some positions, which Chan's formula merges with those of others.
struct Sums {
  double count = 0, mean = 0, deviations = 0;

  LASFAST_DEVICE void add(double n, double other_mean, double other_deviations) {
    if (n == 0) return;
    const double delta = other_mean - mean, share = n / (count + n);
    mean += delta * share;
    deviations += other_deviations + delta * delta * count * share;
    count += n;
  }
};

struct Shared {
  Problem problem;
  double count[block_threads], mean[block_threads], deviations[block_threads];
};

LASFAST_KERNEL(block_threads, 2)
merge(const PassArgs pass) {
  auto* const shared = device::shared<Shared>();
  const Problem& p = find_problem(pass, &shared->problem);
  const int thread = device::thread_index();
  const int64_t total = pass.count * p.out_height * p.out_width, tiles = (total + p.rows - 1) / p.rows;
  const int c =
      static_cast<int>(device::block_index() - p.first_tile) * merge_columns + thread % merge_columns;
  if (c < p.out_channels) {
    Sums sums;
    for (int64_t i = thread / merge_columns; i < tiles; i += segments) {
      const int64_t rest = total - i * p.rows;
      const float* const partial = pass.partial + p.partial + 2 * i * p.out_pitch + c;
      sums.add(static_cast<double>(rest < p.rows ? rest : p.rows), partial[0], partial[p.out_pitch]);
    }
    shared->count[thread] = sums.count;
    shared->mean[thread] = sums.mean;
    shared->deviations[thread] = sums.deviations;
  }
  device::barrier();
  if (thread >= merge_columns || c >= p.out_channels) return;
  Sums sums;
  for (int i = thread; i < block_threads; i += merge_columns)
    sums.add(shared->count[i], shared->mean[i], shared->deviations[i]);
  const int64_t at = p.statistics + c;
  const double variance = sums.deviations / static_cast<double>(total);
  const double scale = pass.gamma[at] / device::sqrt(variance + static_cast<double>(p.eps));
  pass.mean[at] = static_cast<float>(sums.mean);
  pass.variance[at] = static_cast<float>(variance);
  pass.scale[at] = static_cast<float>(scale);
  pass.shift[at] = static_cast<float>(pass.beta[at] - sums.mean * scale);
}

}  // namespace

int launch_merge(const Launch& launch, const PassArgs& pass, device::Stream stream) {
  return device::launch(merge, launch.blocks, block_threads, sizeof(Shared), stream, pass);
}

}  // namespace lasfast
