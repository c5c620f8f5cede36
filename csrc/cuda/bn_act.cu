// The entry points of bn_act.h on CUDA, and the second stage of statistics, in double.
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
  float *mean, *var;
};

// This is Chan's formula for all parts at once: the squared deviations from the mean of all are those from
// the parts' own means, and those of these means from the mean of all.
LASFAST_KERNEL(merge_threads, 2)
merge_statistics(const MergeArgs a) {
  device::wait_for_earlier();
  device::let_next_begin();
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
  a.mean[merge.channel] = static_cast<float>(mean);
  a.var[merge.channel] = static_cast<float>(variance < 0.0 ? 0.0 : variance);
}

struct FollowArgs {
  int64_t channels;
  const float *mean, *var;
  BnActRunning running;
};

LASFAST_KERNEL(reduce_threads, 2)
follow(const FollowArgs a) {
  device::wait_for_earlier();
  device::let_next_begin();
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

// The workspace has sums; the sums of groups of blocks; partial sums; counters. Each begins at a multiple of
// 16 bytes.
class Workspace {
 public:
  Workspace(const BnActParams& p, void* at) : at_(static_cast<char*>(at)), end_(0) {
    sums_ = take(2 * p.channels + 1, sizeof(double));
    WideRows most[] = {WideRows(p.rows, p.channels, 1),
                       WideRows(p.rows, p.channels, values_per_16(Dtype::float32)),
                       WideRows(p.rows, p.channels, values_per_16(Dtype::bfloat16))};
    const auto largest = [&](const auto& of) {
      int64_t size = 0;
      for (const WideRows& rows : most) size = std::max(size, of(rows));
      return size;
    };
    of_groups_ =
        take(largest([](const WideRows& rows) { return 2 * rows.groups() * rows.width; }), sizeof(double));
    partial_ =
        take(largest([](const WideRows& rows) { return partials * rows.partial_sums(); }), sizeof(float));
    counter_count_ = largest([](const WideRows& rows) { return rows.counters(); });
    counters_ = take(counter_count_, sizeof(uint32_t));
  }

  double* sums() const { return reinterpret_cast<double*>(at_ + sums_); }
  double* of_groups() const { return reinterpret_cast<double*>(at_ + of_groups_); }
  float* partial() const { return reinterpret_cast<float*>(at_ + partial_); }
  uint32_t* counters() const { return reinterpret_cast<uint32_t*>(at_ + counters_); }
  int64_t counter_count() const { return counter_count_; }
  int64_t bytes() const { return end_; }

 private:
  int64_t take(int64_t count, size_t item) {
    const int64_t begin = end_;
    end_ += round_to(count * static_cast<int64_t>(item), 16);
    return begin;
  }

  char* at_;
  int64_t end_, sums_, of_groups_, partial_, counters_, counter_count_;
};

int launch_sums(const BnActParams& p, const void* grad, const void* x, const float* mean, const float* var,
                const float* weight, const float* bias, const void* residual, void* workspace,
                device::Stream stream, double* sums, float* grad_weight, float* grad_bias,
                void* grad_residual) {
  const Workspace work(p, workspace);
  if (p.rows == 0) {
    int error = device::zero(sums, (2 * p.channels + 1) * int64_t{sizeof(double)}, stream);
    for (float* const gradient : {grad_weight, grad_bias})
      if (error == 0 && gradient) error = device::zero(gradient, p.channels * int64_t{sizeof(float)}, stream);
    return error;
  }
  const int vector = vector_for(p, {grad, x, residual, grad_residual});
  BnActArgs a = normalizing(p, WideRows(p.rows, p.channels, vector), x, mean, var, weight, bias, residual);
  a.grad = grad;
  a.partial = work.partial();
  a.output = grad_residual;
  a.last = {work.of_groups(), p.counters, a.rows.groups(), static_cast<double>(p.rows), sums,
            grad_bias,        grad_weight};
  if (!p.counters) {
    a.last.arrived = work.counters();
    const int error = device::zero(work.counters(), a.rows.counters() * int64_t{sizeof(uint32_t)}, stream);
    if (error != 0) return error;
  }
  return launch_bn_act(BnActPass::sums, p.storage, vector, a, stream, false);
}

int launch_grad_x(const BnActParams& p, const void* grad, const void* x, const float* mean, const float* var,
                  const float* weight, const float* bias, const void* residual, const void* dz,
                  const double* sums, device::Stream stream, bool early, void* grad_x) {
  if (p.rows == 0) return 0;
  if (dz) residual = nullptr;
  const int vector = vector_for(p, {grad, x, residual, dz, grad_x});
  BnActArgs a = normalizing(p, WideRows(p.rows, p.channels, vector), x, mean, var, weight, bias, residual);
  a.grad = grad;
  a.dz = dz;
  a.sums = p.batch_statistics ? sums : nullptr;
  a.output = grad_x;
  return launch_bn_act(BnActPass::grad_x, p.storage, vector, a, stream, early);
}

}  // namespace

int64_t bn_act_workspace_cuda(const BnActParams& p) {
  return validate(p).ok() ? Workspace(p, nullptr).bytes() : 0;
}

int64_t bn_act_counters_cuda(const BnActParams& p) {
  return validate(p).ok() ? Workspace(p, nullptr).counter_count() : 0;
}

Status batch_statistics_cuda(const BnActParams& p, const void* x, void* workspace, int device, void* stream,
                             float* mean, float* var) {
  if (const Status status = validate(p); !status.ok()) return status;
  const int vector = vector_for(p, {x});
  BnActArgs a{WideRows(p.rows, p.channels, vector)};
  a.x = x;
  a.partial = Workspace(p, workspace).partial();
  const MergeArgs merge{a.rows, static_cast<double>(p.rows), a.partial, mean, var};
  return on_device(device, stream, [&](device::Stream queue) {
    if (p.rows > 0) {
      const int error = launch_bn_act(BnActPass::statistics, p.storage, vector, a, queue, false);
      if (error != 0) return error;
    }
    return device::launch(merge_statistics, merge_blocks(a.rows.channels), merge_threads, merge_shared_bytes,
                          queue, merge, p.rows > 0 && may_launch_early());
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
  a.counters = p.counters;
  a.counter_count = p.counters ? bn_act_counters_cuda(p) : 0;
  return on_device(device, stream, [&](device::Stream queue) {
    return launch_bn_act(BnActPass::forward, p.storage, vector, a, queue, p.early && may_launch_early());
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
    return launch_grad_x(p, grad, x, mean, var, weight, bias, residual, dz, sums, queue, false, grad_x);
  });
}

Status bn_act_backward_cuda(const BnActParams& p, const void* grad, const void* x, const float* mean,
                            const float* var, const float* weight, const float* bias, const void* residual,
                            void* workspace, int device, void* stream, void* grad_x, float* grad_weight,
                            float* grad_bias, void* grad_residual) {
  if (const Status status = validate(p); !status.ok()) return status;
  double* const sums = Workspace(p, workspace).sums();
  const void* const dz = p.residual_channels == p.channels ? grad_residual : nullptr;
  return on_device(device, stream, [&](device::Stream queue) {
    const bool with_sums = grad_weight || grad_bias || grad_residual || (p.batch_statistics && grad_x);
    if (with_sums) {
      const int error = launch_sums(p, grad, x, mean, var, weight, bias, residual, workspace, queue, sums,
                                    grad_weight, grad_bias, grad_residual);
      if (error != 0) return error;
    }
    if (!grad_x) return 0;
    const bool early = with_sums && may_launch_early();
    return launch_grad_x(p, grad, x, mean, var, weight, bias, residual, dz, sums, queue, early, grad_x);
  });
}

}  // namespace lasfast
