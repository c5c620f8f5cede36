// Grouped 2-D convolution on dense NHWC values on the CPU, for training: its three passes, and prediction.
//
//   output[n, y, x, o] = sum over i, r, s of
//     input[n, y * stride + r - padding, x * stride + s - padding, g * (c_in / groups) + i] *
//     weight[o, i, r, s]
//
// with g = o / (c_out / groups), terms that fall into the padding left out, so that an Inf or NaN weight
// never meets them. Values are fp32 or bf16, the weight either, read in place through strides (a slice of a
// wider weight). Sums are fp32, in an order that does not depend on the number of threads: the same inputs
// give the same bits. The kernels allocate nothing and keep nothing between calls.
#pragma once

#include <cstdint>

#include "lasfast/dtype.h"
#include "lasfast/isa.h"
#include "lasfast/prediction.h"
#include "lasfast/sliced_conv2d.h"  // Pass
#include "lasfast/status.h"

namespace lasfast {

struct GroupedNhwcParams {
  int64_t batch, groups;
  int64_t c_in, height, width;           // of the input, all groups together
  int64_t c_out, out_height, out_width;  // of the output
  int64_t kernel, stride, padding;
  int64_t weight_stride[4];  // [c_out, c_in / groups, kernel, kernel], in elements; or of its gradient
  Dtype weight_dtype;        // the weight's; its gradient is always fp32
  Dtype storage;             // of input, output and their gradients
};

// Checks that the sizes fit one another. Every entry point begins with it.
inline Status validate(const GroupedNhwcParams& p) {
  const SlicedConv2dParams sizes{p.batch,      p.c_in,      p.height, p.width,  p.c_out,
                                 p.out_height, p.out_width, p.kernel, p.kernel, p.stride,
                                 p.padding,    p.groups,    {},       {},       {}};
  if (!is_known(p.weight_dtype) || !is_known(p.storage)) return invalid("dtypes must be float32 or bfloat16");
  return validate(sizes);
}

// Bytes of scratch memory (any alignment) that a pass needs.
int64_t grouped_nhwc_workspace_cpu(const GroupedNhwcParams& p, Pass pass, int threads, Isa isa);

// Overwrites output and, where they are wanted (both or neither is null), the mean and biased variance of
// each channel of the output before it is rounded to its storage type; of no values they are NaN.
Status grouped_nhwc_forward_cpu(const GroupedNhwcParams& p,
                                const void* input,   // [batch, height, width, c_in]
                                const void* weight,  // [>= c_out, >= c_in / groups, kernel, kernel]
                                void* workspace, int threads, Isa isa,
                                void* output,      // [batch, out_height, out_width, c_out]
                                float* mean,       // [c_out] or null
                                float* variance);  // [c_out] or null

// Overwrites output with what follows the forward pass, which is not stored itself; without a residual.
Status grouped_nhwc_predict_cpu(const GroupedNhwcParams& p, const void* input, const void* weight,
                                const Prediction& then, void* workspace, int threads, Isa isa, void* output);

// Overwrites grad_input.
Status grouped_nhwc_grad_input_cpu(const GroupedNhwcParams& p,
                                   const void* grad_output,  // [batch, out_height, out_width, c_out]
                                   const void* weight,       // [>= c_out, >= c_in / groups, kernel, kernel]
                                   void* workspace, int threads, Isa isa,
                                   void* grad_input);  // [batch, height, width, c_in]

// Overwrites the slice grad_weight[:c_out, :c_in / groups] and touches nothing else: the caller zeroes the
// rest.
Status grouped_nhwc_grad_weight_cpu(const GroupedNhwcParams& p,
                                    const void* grad_output,  // [batch, out_height, out_width, c_out]
                                    const void* input,        // [batch, height, width, c_in]
                                    void* workspace, int threads, Isa isa,
                                    float* grad_weight);  // [>= c_out, >= c_in / groups, kernel, kernel]

}  // namespace lasfast
