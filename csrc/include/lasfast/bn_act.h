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

#include "lasfast/isa.h"
#include "lasfast/schedule.h"
#include "lasfast/status.h"

namespace lasfast {

struct BnActParams {
  int64_t rows, channels;
  int64_t residual_channels;  // 0: no residual
  Storage storage;
  Activation activation;
  bool batch_statistics;
  float eps;
};

// Checks that the sizes fit one another. Every entry point begins with it.
inline Status validate(const BnActParams& p) {
  if (p.rows < 0) return invalid("rows must not be negative");
  if (p.channels < 1) return invalid("channels must be at least 1");
  if (p.residual_channels < 0 || p.residual_channels > p.channels)
    return invalid("residual_channels must be between 0 and channels");
  if (p.storage != Storage::float32 && p.storage != Storage::bfloat16)
    return invalid("storage must be float32 or bfloat16");
  const int activation = static_cast<int>(p.activation);
  if (activation < 0 || activation >= activation_count) return invalid("activation is unknown");
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

}  // namespace lasfast
