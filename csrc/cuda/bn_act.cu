// The entry points of bn_act.h on CUDA, and the second stages of its sums, in double.
#include <initializer_list>

#include "bn_act_kernels.cuh"
#include "entry.cuh"
#include "lasfast/round.h"
#include "merge.cuh"

namespace lasfast {
namespace {

constexpr int partials = bn_act_partials;

// ---- second stages

// Returns a thread's share of the sum of of(block, column) over all blocks and columns of its channel.
template <typename Of>
LASFAST_DEVICE double own_sum(const WideRows& rows, const Merge& merge, const Of& of) {
  if (merge.channel >= rows.channels) return 0.0;
  const int columns = static_cast<int>(rows.width / rows.channels);
  const int parts = static_cast<int>(rows.blocks) * columns;
  double own = 0.0;
  for (int i = merge.segment; i < parts; i += merge_segments)
    own += of(i / columns, merge.channel + i % columns * rows.channels);
  return own;
}

struct MergeArgs {
  WideRows rows;
  double values;         // of each channel
  const float* partial;  // [blocks, partials, width]
  const float* var;
  float eps;
  double* sums;           // [2 * channels + 1]
  float *first, *second;  // mean and var, or the gradients of bias and weight, which may be null
};

// This is Chan's formula for all parts at once: the squared deviations from the mean of all are those from
// the parts' own means, and those of these means from the mean of all.
LASFAST_KERNEL(merge_threads, 2)
merge_statistics(const MergeArgs a) {
  const Merge merge;
  const auto count = [&](int64_t block, int64_t column) {
    return static_cast<double>(a.rows.rows_of(block, column));
  };
  const auto partial = [&](int64_t block, int which, int64_t column) {
    return static_cast<double>(a.partial[(partials * block + which) * a.rows.width + column]);
  };
  const auto mean_of = [&](int64_t block, int64_t column) {
    return partial(block, 0, column) + partial(block, 1, column);
  };
  const double sum = merge.sum(own_sum(a.rows, merge, [&](int64_t block, int64_t column) {
    const double n = count(block, column);
    return n > 0.0 ? n * mean_of(block, column) : 0.0;
  }));
  const double mean = a.values > 0.0 ? sum / a.values : 0.0;
  const double deviations = merge.sum(own_sum(a.rows, merge, [&](int64_t block, int64_t column) {
    const double n = count(block, column);
    if (n == 0.0) return 0.0;
    const double apart = mean_of(block, column) - mean;
    return partial(block, 2, column) + n * apart * apart;
  }));
  if (!merge.answers(a.rows.channels)) return;
  const double variance = a.values > 0.0 ? deviations / a.values : 0.0;
  a.first[merge.channel] = static_cast<float>(mean);
  a.second[merge.channel] = static_cast<float>(variance < 0.0 ? 0.0 : variance);
}

LASFAST_KERNEL(merge_threads, 2)
merge_sums(const MergeArgs a) {
  const Merge merge;
  double sums[2];
  for (int k = 0; k < 2; ++k)
    sums[k] = merge.sum(own_sum(a.rows, merge, [&](int64_t block, int64_t column) {
      return static_cast<double>(a.partial[(partials * block + k) * a.rows.width + column]);
    }));
  if (!merge.answers(a.rows.channels)) return;
  const int64_t c = merge.channel, channels = a.rows.channels;
  a.sums[c] = sums[0];
  a.sums[channels + c] = sums[1];
  if (c == 0) a.sums[2 * channels] = a.values;
  if (a.first) a.first[c] = static_cast<float>(sums[0]);
  if (a.second)
    a.second[c] = static_cast<float>(
        sums[1] / device::sqrt(static_cast<double>(a.var[c]) + static_cast<double>(a.eps)));
}

struct FollowArgs {
  int64_t channels;
  const float *mean, *var;
  BnActRunning running;
};

LASFAST_KERNEL(reduce_threads, 2)
follow(const FollowArgs a) {
  const int64_t c = device::block_index() * reduce_threads + device::thread_index();
  if (c < a.channels) a.running.follow(c, a.mean[c], a.var[c]);
}

// ---- the host's side

int values_per_16(Dtype storage) { return static_cast<int>(16 / itemsize(storage)); }

// Returns how many values of these tensors are read at once: as many as 16 bytes hold, or one.
int vector_for(const BnActParams& p, std::initializer_list<const void*> tensors) {
  const int vector = values_per_16(p.storage);
  for (const void* tensor : tensors)
    if (reinterpret_cast<uintptr_t>(tensor) % 16 != 0) return 1;
  const bool narrow = p.residual_channels != 0 && p.residual_channels != p.channels;
  return narrow && (p.channels % vector != 0 || p.residual_channels % vector != 0) ? 1 : vector;
}

BnActArgs normalizing(const BnActParams& p, const WideRows& rows, const void* x, const float* mean,
                      const float* var, const float* weight, const float* bias, const void* residual) {
  BnActArgs a{rows};
  a.residual_channels = p.residual_channels;
  a.activation = p.activation;
  a.eps = p.eps;
  a.x = x;
  a.mean = mean;
  a.var = var;
  a.weight = weight;
  a.bias = bias;
  a.residual = residual;
  return a;
}

// The workspace has sums, then partial sums.
int64_t sums_bytes(int64_t channels) { return (2 * channels + 2) / 2 * 2 * int64_t{sizeof(double)}; }
double* sums_in(void* workspace) { return static_cast<double*>(workspace); }
float* partial_in(void* workspace, int64_t channels) {
  return reinterpret_cast<float*>(static_cast<char*>(workspace) + sums_bytes(channels));
}

int launch_sums(const BnActParams& p, const void* grad, const void* x, const float* mean, const float* var,
                const float* weight, const float* bias, const void* residual, void* workspace,
                device::Stream stream, double* sums, float* grad_weight, float* grad_bias,
                void* grad_residual) {
  const int vector = vector_for(p, {grad, x, residual, grad_residual});
  BnActArgs a = normalizing(p, WideRows(p.rows, p.channels, vector), x, mean, var, weight, bias, residual);
  a.grad = grad;
  a.partial = partial_in(workspace, p.channels);
  a.output = grad_residual;
  if (p.rows > 0) {
    const int error = launch_bn_act(BnActPass::sums, p.storage, vector, a, stream);
    if (error != 0) return error;
  }
  const MergeArgs merge{a.rows,     static_cast<double>(p.rows), a.partial, var, p.eps, sums, grad_bias,
                        grad_weight};
  return device::launch(merge_sums, merge_blocks(a.rows.channels), merge_threads, merge_shared_bytes, stream,
                        merge);
}

int launch_grad_x(const BnActParams& p, const void* grad, const void* x, const float* mean, const float* var,
                  const float* weight, const float* bias, const void* residual, const void* dz,
                  const double* sums, device::Stream stream, void* grad_x) {
  if (p.rows == 0) return 0;
  if (dz) residual = nullptr;
  const int vector = vector_for(p, {grad, x, residual, dz, grad_x});
  BnActArgs a = normalizing(p, WideRows(p.rows, p.channels, vector), x, mean, var, weight, bias, residual);
  a.grad = grad;
  a.dz = dz;
  a.sums = p.batch_statistics ? sums : nullptr;
  a.output = grad_x;
  return launch_bn_act(BnActPass::grad_x, p.storage, vector, a, stream);
}

}  // namespace

int64_t bn_act_workspace_cuda(const BnActParams& p) {
  if (!validate(p).ok()) return 0;
  int64_t most = 0;
  for (const int vector : {1, values_per_16(Dtype::float32), values_per_16(Dtype::bfloat16)})
    most = std::max(most, WideRows(p.rows, p.channels, vector).partial_sums());
  return sums_bytes(p.channels) + partials * most * int64_t{sizeof(float)};
}

Status batch_statistics_cuda(const BnActParams& p, const void* x, void* workspace, int device, void* stream,
                             float* mean, float* var) {
  if (const Status status = validate(p); !status.ok()) return status;
  const int vector = vector_for(p, {x});
  BnActArgs a{WideRows(p.rows, p.channels, vector)};
  a.x = x;
  a.partial = partial_in(workspace, p.channels);
  const MergeArgs merge{a.rows, static_cast<double>(p.rows), a.partial, nullptr, 0.f, nullptr, mean, var};
  return on_device(device, stream, [&](device::Stream queue) {
    if (p.rows > 0) {
      const int error = launch_bn_act(BnActPass::statistics, p.storage, vector, a, queue);
      if (error != 0) return error;
    }
    return device::launch(merge_statistics, merge_blocks(a.rows.channels), merge_threads, merge_shared_bytes,
                          queue, merge);
  });
}

Status update_running_cuda(int64_t rows, int64_t channels, const float* mean, const float* var,
                           double momentum, int device, void* stream, float* running_mean,
                           float* running_var) {
  if (const Status status = validate_running(rows, channels); !status.ok()) return status;
  const FollowArgs a{channels, mean, var, {rows, momentum, running_mean, running_var}};
  return on_device(device, stream, [&](device::Stream queue) {
    return device::launch(follow, divide_up(channels, reduce_threads), reduce_threads, 0, queue, a);
  });
}

namespace {

Status run_forward(const BnActParams& p, const void* x, const float* mean, const float* var,
                   const float* weight, const float* bias, const void* residual, int device, void* stream,
                   void* y, const BnActRunning& running) {
  if (p.rows == 0) return {};
  const int vector = vector_for(p, {x, residual, y});
  BnActArgs a = normalizing(p, WideRows(p.rows, p.channels, vector), x, mean, var, weight, bias, residual);
  a.output = y;
  a.running = running;
  return on_device(device, stream, [&](device::Stream queue) {
    return launch_bn_act(BnActPass::forward, p.storage, vector, a, queue);
  });
}

}  // namespace

Status bn_act_forward_cuda(const BnActParams& p, const void* x, const float* mean, const float* var,
                           const float* weight, const float* bias, const void* residual, void*, int device,
                           void* stream, void* y) {
  if (const Status status = validate(p); !status.ok()) return status;
  return run_forward(p, x, mean, var, weight, bias, residual, device, stream, y, {});
}

Status bn_act_train_cuda(const BnActParams& p, const void* x, const float* mean, const float* var,
                         const float* weight, const float* bias, const void* residual, void*, int device,
                         void* stream, void* y, double momentum, float* running_mean, float* running_var) {
  if (const Status status = validate(p); !status.ok()) return status;
  if (const Status status = validate_running(p.rows, p.channels); !status.ok()) return status;
  if (!running_mean || !running_var) return invalid("the running statistics are missing");
  return run_forward(p, x, mean, var, weight, bias, residual, device, stream, y,
                     {p.rows, momentum, running_mean, running_var});
}

Status bn_act_sums_cuda(const BnActParams& p, const void* grad, const void* x, const float* mean,
                        const float* var, const float* weight, const float* bias, const void* residual,
                        void* workspace, int device, void* stream, double* sums, float* grad_weight,
                        float* grad_bias, void* grad_residual) {
  if (const Status status = validate(p); !status.ok()) return status;
  return on_device(device, stream, [&](device::Stream queue) {
    return launch_sums(p, grad, x, mean, var, weight, bias, residual, workspace, queue, sums, grad_weight,
                       grad_bias, grad_residual);
  });
}

Status bn_act_grad_x_cuda(const BnActParams& p, const void* grad, const void* x, const float* mean,
                          const float* var, const float* weight, const float* bias, const void* residual,
                          const void* dz, const double* sums, void*, int device, void* stream, void* grad_x) {
  if (const Status status = validate(p); !status.ok()) return status;
  return on_device(device, stream, [&](device::Stream queue) {
    return launch_grad_x(p, grad, x, mean, var, weight, bias, residual, dz, sums, queue, grad_x);
  });
}

Status bn_act_backward_cuda(const BnActParams& p, const void* grad, const void* x, const float* mean,
                            const float* var, const float* weight, const float* bias, const void* residual,
                            void* workspace, int device, void* stream, void* grad_x, float* grad_weight,
                            float* grad_bias, void* grad_residual) {
  if (const Status status = validate(p); !status.ok()) return status;
  double* const sums = sums_in(workspace);
  const void* const dz = p.residual_channels == p.channels ? grad_residual : nullptr;
  return on_device(device, stream, [&](device::Stream queue) {
    if (grad_weight || grad_bias || grad_residual || (p.batch_statistics && grad_x)) {
      const int error = launch_sums(p, grad, x, mean, var, weight, bias, residual, workspace, queue, sums,
                                    grad_weight, grad_bias, grad_residual);
      if (error != 0) return error;
    }
    if (!grad_x) return 0;
    return launch_grad_x(p, grad, x, mean, var, weight, bias, residual, dz, sums, queue, grad_x);
  });
}

}  // namespace lasfast
