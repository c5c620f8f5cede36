// Batch norm, activation and the sum of a residual block in one pass over memory, for training: the batch's
// statistics, the forward pass and its gradients.
//
//   y = act(z),  z = xhat * weight + bias + residual,  xhat = (x - mean) / sqrt(var + eps)
//
// x, y, residual and their gradients are dense NHWC rows, [rows = images * height * width, channels], all
// fp32 or all bf16; statistics, weight, bias and their gradients are fp32, as is all arithmetic. A residual
// may have fewer channels than x: missing ones count as zero.
//
// Nothing but inputs is needed backward: z is computed again. With dz = act'(z) * grad,
//
//   grad_bias = sum dz,  grad_weight = sum dz * xhat,  grad_residual = dz,
//   grad_x = weight / sqrt(var + eps) * (dz - (grad_bias + xhat * grad_weight) / rows)
//
// where mean and var are those of x (`batch_statistics`); where they are constants, the last two terms drop
// out. One pass takes the sums and writes grad_residual; a second one reads that (or computes dz again) and
// writes grad_x.
//
// Sums are taken over blocks of rows that depend only on the sizes, and put together in order: the same
// inputs give the same bits, whatever the number of threads.
#pragma once

#include <cstdint>

#include "lasfast/activation.h"
#include "lasfast/dtype.h"
#include "lasfast/isa.h"
#include "lasfast/status.h"

namespace lasfast {

struct BnActParams {
  int64_t rows, channels;
  int64_t residual_channels;  // 0: no residual
  Dtype storage;
  Activation activation;
  bool batch_statistics;
  float eps;
  uint32_t* counters = nullptr;  // CUDA: see bn_act_counters_cuda
  bool early = false;  // CUDA: whether a kernel of lasfast's is queued right before the forward pass
};

// Checks that the sizes fit one another. Every entry point begins with it.
inline Status validate(const BnActParams& p) {
  if (p.rows < 0) return invalid("rows must not be negative");
  if (p.channels < 1) return invalid("channels must be at least 1");
  if (p.residual_channels < 0 || p.residual_channels > p.channels)
    return invalid("residual_channels must be between 0 and channels");
  if (!is_known(p.storage)) return invalid("storage must be float32 or bfloat16");
  if (!is_known(p.activation)) return invalid("activation is unknown");
  return {};
}

inline Status validate_running(int64_t rows, int64_t channels) {
  if (rows < 2) return invalid("rows must be at least 2");
  if (channels < 1) return invalid("channels must be at least 1");
  return {};
}

// Bytes of scratch memory (any alignment) that any of the passes needs with this many threads.
int64_t bn_act_workspace_cpu(const BnActParams& p, int threads);

// Mean and biased variance of each channel; 0 where there are no rows. Reads rows, channels and storage of p.
// Shifted sums over each block of rows, merged by Chan's formula in double.
Status batch_statistics_cpu(const BnActParams& p,
                            const void* x,  // [rows, channels]
                            void* workspace, int threads, Isa isa,
                            float* mean,  // [channels]
                            float* var);  // [channels]

// running = (1 - momentum) * running + momentum * batch's, with the unbiased variance: rows / (rows - 1)
// times the biased one. At least two rows.
Status update_running_cpu(int64_t rows, int64_t channels,
                          const float* mean,  // [channels]
                          const float* var,   // [channels]
                          double momentum,
                          float* running_mean,  // [channels]
                          float* running_var);  // [channels]

// Overwrites y.
Status bn_act_forward_cpu(const BnActParams& p,
                          const void* x,         // [rows, channels]
                          const float* mean,     // [channels]
                          const float* var,      // [channels]
                          const float* weight,   // [channels], or null: 1
                          const float* bias,     // [channels], or null: 0
                          const void* residual,  // [rows, residual_channels], or null where they are 0
                          void* workspace, int threads, Isa isa,
                          void* y);  // [rows, channels]

// Overwrites the gradients; those that are null are not wanted. (All pointers before them as above.)
Status bn_act_backward_cpu(const BnActParams& p,
                           const void* grad,  // [rows, channels]
                           const void* x, const float* mean, const float* var, const float* weight,
                           const float* bias, const void* residual, void* workspace, int threads, Isa isa,
                           void* grad_x,          // [rows, channels], or null
                           float* grad_weight,    // [channels], or null
                           float* grad_bias,      // [channels], or null
                           void* grad_residual);  // [rows, residual_channels], or null

// The two passes of bn_act_backward apart, for rows that are spread over several calls, say of as many
// processes: each call's sums are added up before any takes its gradient of x, and mean and var are those of
// all rows. Sums of one call alone give the bits of bn_act_backward.
Status bn_act_sums_cpu(const BnActParams& p, const void* grad, const void* x, const float* mean,
                       const float* var, const float* weight, const float* bias, const void* residual,
                       void* workspace, int threads, Isa isa,
                       double* sums,          // [2 * channels + 1]: of dz, of dz * (x - mean); and rows
                       float* grad_weight,    // [channels], of these rows, or null
                       float* grad_bias,      // [channels], of these rows, or null
                       void* grad_residual);  // [rows, residual_channels], or null
Status bn_act_grad_x_cpu(const BnActParams& p, const void* grad, const void* x, const float* mean,
                         const float* var, const float* weight, const float* bias, const void* residual,
                         const void* dz,      // [rows, channels], or null: computed again
                         const double* sums,  // [2 * channels + 1], or null without batch_statistics
                         void* workspace, int threads, Isa isa,
                         void* grad_x);  // [rows, channels]

// The same on a GPU, queued on a stream; all pointers are the device's, the workspace is aligned to 16 bytes.
int64_t bn_act_workspace_cuda(const BnActParams& p);

// How many counters, of 4 bytes, the pass over sums needs. Where `counters` is not null, bn_act_train_cuda
// makes these zero, and bn_act_backward_cuda and bn_act_sums_cuda find them so and leave them so. Where it is
// null, these two have some in their workspace, which takes them one launch more.
int64_t bn_act_counters_cuda(const BnActParams& p);
Status batch_statistics_cuda(const BnActParams& p, const void* x, void* workspace, int device, void* stream,
                             float* mean, float* var);
Status update_running_cuda(int64_t rows, int64_t channels, const float* mean, const float* var,
                           double momentum, int device, void* stream, float* running_mean,
                           float* running_var);
Status bn_act_forward_cuda(const BnActParams& p, const void* x, const float* mean, const float* var,
                           const float* weight, const float* bias, const void* residual, void* workspace,
                           int device, void* stream, void* y);
// Both of these in one launch, for statistics of the batch.
Status bn_act_train_cuda(const BnActParams& p, const void* x, const float* mean, const float* var,
                         const float* weight, const float* bias, const void* residual, void* workspace,
                         int device, void* stream, void* y, double momentum, float* running_mean,
                         float* running_var);
Status bn_act_backward_cuda(const BnActParams& p, const void* grad, const void* x, const float* mean,
                            const float* var, const float* weight, const float* bias, const void* residual,
                            void* workspace, int device, void* stream, void* grad_x, float* grad_weight,
                            float* grad_bias, void* grad_residual);
Status bn_act_sums_cuda(const BnActParams& p, const void* grad, const void* x, const float* mean,
                        const float* var, const float* weight, const float* bias, const void* residual,
                        void* workspace, int device, void* stream, double* sums, float* grad_weight,
                        float* grad_bias, void* grad_residual);
Status bn_act_grad_x_cuda(const BnActParams& p, const void* grad, const void* x, const float* mean,
                          const float* var, const float* weight, const float* bias, const void* residual,
                          const void* dz, const double* sums, void* workspace, int device, void* stream,
                          void* grad_x);

}  // namespace lasfast
