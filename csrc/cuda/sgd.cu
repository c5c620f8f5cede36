// The update of sgd.h on CUDA, by a block for each chunk. Where gradients are clipped, two kernels run before
// it: one leaves the sum of squares of each chunk, in double, and one block adds these in order and leaves
// the scale in the workspace.

#include "device.cuh"
#include "entry.cuh"
#include "lasfast/sgd.h"

namespace lasfast {
namespace {

constexpr int threads = 256;
constexpr int values_each = static_cast<int>(sgd_chunk / threads);

struct Args {
  SgdParams p;
  const SgdPart* parts;
  double* squares;  // [chunks]
  float* scale;     // null without clip_norm
};

// Returns the part that has a chunk: the last one that begins no later.
LASFAST_DEVICE SgdPart find_part(const Args& args, int64_t chunk) {
  int64_t low = 0, high = args.p.parts;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (args.parts[middle].first_chunk <= chunk)
      low = middle;
    else
      high = middle;
  }
  return args.parts[low];
}

// Calls run(offset) for each value of a chunk that this thread has.
template <class Run>
LASFAST_DEVICE void for_values(const SgdPart& part, int64_t chunk, const Run& run) {
  const auto rows = static_cast<uint32_t>(part.size[1]), inner = static_cast<uint32_t>(part.size[2]);
  const auto values = static_cast<uint32_t>(part.size[0]) * rows * inner;
  const auto begin = static_cast<uint32_t>((chunk - part.first_chunk) * sgd_chunk);
  const bool dense = values == inner;
  LASFAST_UNROLL
  for (int i = 0; i < values_each; ++i) {
    const uint32_t at = begin + i * threads + device::thread_index();
    if (at >= values) return;
    if (dense) {
      run(int64_t{at});
    } else {
      const uint32_t row = at / inner;
      run(row / rows * part.stride[0] + row % rows * part.stride[1] + at % inner);
    }
  }
}

// Returns the sum of all threads' values, to thread 0.
LASFAST_DEVICE double block_sum(double value) {
  auto* const sums = device::shared<double>();
  const int thread = device::thread_index();
  sums[thread] = value;
  for (int half = threads / 2; half > 0; half /= 2) {
    device::barrier();
    if (thread < half) sums[thread] += sums[thread + half];
  }
  return sums[0];
}

LASFAST_KERNEL(threads, 4)
add_squares(const Args args) {
  const int64_t chunk = device::block_index();
  const SgdPart part = find_part(args, chunk);
  double sum = 0;
  for_values(part, chunk, [&](int64_t at) {
    const double value = part.gradient[at];
    sum += value * value;
  });
  sum = block_sum(sum);
  if (device::thread_index() == 0) args.squares[chunk] = sum;
}

LASFAST_KERNEL(threads, 1)
clip(const Args args) {
  const SgdParams& p = args.p;
  double sum = 0;
  for (int64_t i = device::thread_index(); i < p.chunks; i += threads) sum += args.squares[i];
  sum = block_sum(sum);
  if (device::thread_index() != 0) return;
  const double given = p.gradient_scale < 0 ? -p.gradient_scale : p.gradient_scale;
  const double most = p.clip_norm / (device::sqrt(sum) * given + 1e-6);
  *args.scale = static_cast<float>(most >= 1 ? p.gradient_scale : p.gradient_scale * most);
}

LASFAST_KERNEL(threads, 4)
update(const Args args) {
  const SgdParams& p = args.p;
  const int64_t chunk = device::block_index();
  const SgdPart part = find_part(args, chunk);
  const float scale = args.scale == nullptr ? p.gradient_scale : *args.scale;
  const bool decays = p.weight_decay != 0 && part.decays != 0;
  for_values(part, chunk, [&](int64_t at) {
    const float weight = part.weight[at];
    float g = part.gradient[at] * scale;
    if (decays) g += weight * p.weight_decay;
    if (p.momentum != 0) {
      const float m = part.momentum[at] * p.momentum + g;
      part.momentum[at] = m;
      g = p.nesterov ? g + m * p.momentum : m;
    }
    part.weight[at] = weight - g * p.learning_rate;
  });
}

int run(const Args& args, device::Stream stream) {
  const int64_t chunks = args.p.chunks, shared_bytes = threads * int64_t{sizeof(double)};
  if (args.scale != nullptr) {
    if (const int error = device::launch(add_squares, chunks, threads, shared_bytes, stream, args))
      return error;
    if (const int error = device::launch(clip, 1, threads, shared_bytes, stream, args)) return error;
  }
  return device::launch(update, chunks, threads, 0, stream, args);
}

}  // namespace

Status sgd_cuda(const SgdParams& p, const SgdPart* parts, void* workspace, int device, void* stream) {
  if (p.parts < 0 || p.chunks < 0) return invalid("parts and chunks must not be negative");
  if (p.chunks > device::max_blocks) return unsupported("more than 2^31 chunks in one call");
  if (p.chunks == 0) return {};
  auto* const squares = static_cast<double*>(workspace);
  auto* const scale = p.clip_norm > 0 ? reinterpret_cast<float*>(squares + p.chunks) : nullptr;
  return on_device(device, stream,
                   [&](device::Stream queue) { return run({p, parts, squares, scale}, queue); });
}

}  // namespace lasfast
