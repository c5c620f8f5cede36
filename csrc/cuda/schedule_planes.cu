// The kernels of depthwise convolutions, pools, sums, gates, arrangements and inputs.
#include "entry.cuh"
#include "schedule_kernels.cuh"
#include "schedule_planes.cuh"
#include "schedule_statistics.cuh"

namespace lasfast {
namespace {

// A block's shared memory. Behind it lie a depthwise convolution's weights, and the tile where statistics are
// taken.
struct Shared {
  Problem problem;
  Moments moments;
};

template <typename T, template <typename> class Op>
LASFAST_KERNEL(block_threads, 2)
planes(const PassArgs pass) {
  auto* const shared = device::shared<Shared>();
  const Problem& p = find_problem(pass, &shared->problem);
  const Tile tile(pass, p);
  if (tile.empty()) return;
  auto* const values = reinterpret_cast<float*>(shared + 1);
  plane_tile<T, Op>(pass, p, tile, values);
  if (p.partial < 0) return;
  device::barrier();
  take_statistics(pass, p, tile, values, p.columns, &shared->moments);
}

template <typename T>
LASFAST_KERNEL(block_threads, 1)
depthwise(const PassArgs pass) {
  auto* const shared = device::shared<Shared>();
  const Problem& p = find_problem(pass, &shared->problem);
  const Tile tile(pass, p);
  if (tile.empty()) return;
  auto* const weights = reinterpret_cast<float*>(shared + 1);
  float* const values = weights + p.kernel_height * p.kernel_width * p.columns;
  load_taps(pass, p, tile.column, weights);
  device::barrier();
  depthwise_tile<T>(pass, p, tile, weights, values);
  if (p.partial < 0) return;
  device::barrier();
  take_statistics(pass, p, tile, values, p.columns, &shared->moments);
}

template <typename T>
int launch_of(const Launch& launch, const PassArgs& pass, device::Stream stream) {
  const auto run = [&](void (*kernel)(PassArgs)) {
    return device::launch(kernel, launch.blocks, block_threads, launch.shared_bytes, stream, pass,
                          pass.early);
  };
  switch (launch.work) {
    case Work::depthwise:
      return run(depthwise<T>);
    case Work::max_pool:
      return run(planes<T, MaxPool>);
    case Work::avg_pool:
      return run(planes<T, AvgPool>);
    case Work::global_pool:
      return run(planes<T, GlobalPool>);
    case Work::combine:
      return run(planes<T, Combine>);
    case Work::gate:
      return run(planes<T, Gate>);
    case Work::arrange:
      return run(planes<T, Arrange>);
    default:
      return run(planes<T, Input>);
  }
}

}  // namespace

int64_t plane_shared_bytes(Work work, const Problem& p) {
  const int64_t taps = work == Work::depthwise ? int64_t{p.kernel_height} * p.kernel_width : 0;
  const int64_t kept = p.partial >= 0 ? p.rows : 0;
  return sizeof(Shared) + (taps + kept) * p.columns * int64_t{sizeof(float)};
}

bool may_launch_early() { return device::waits_for_earlier(planes<float, Combine>); }

int launch_planes(const Launch& launch, bool bfloat16, const PassArgs& pass, device::Stream stream) {
  return bfloat16 ? launch_of<device::bfloat16>(launch, pass, stream)
                  : launch_of<float>(launch, pass, stream);
}

}  // namespace lasfast
