// Depthwise 2-D convolution (one filter per channel) on dense NHWC values, for training: its three passes.
//
//   output[n, y, x, c] = sum over r, s of
//     input[n, y * stride + r - padding, x * stride + s - padding, c] * weight[c, r, s]
//
// with the terms that fall into the padding left out, so that an Inf or NaN weight never meets them. Values
// are fp32 or bf16, the weight either, read in place through strides (a slice of a wider weight). Sums are
// fp32, in an order that does not depend on the number of threads: the same inputs give the same bits. The
// kernels allocate nothing and keep nothing between calls.
#pragma once

#include <cstdint>

#include "lasfast/dtype.h"
#include "lasfast/isa.h"
#include "lasfast/prediction.h"
#include "lasfast/sliced_conv2d.h"  // Pass
#include "lasfast/status.h"

namespace lasfast {

struct DepthwiseNhwcParams {
  int64_t batch, channels;
  int64_t height, width;          // of the input
  int64_t out_height, out_width;  // of the output
  int64_t kernel, stride, padding;
  int64_t weight_stride[3];  // [channels, kernel, kernel], in elements; of the weight, or of its gradient
  Dtype weight_dtype;        // the weight's; its gradient is always fp32
  Dtype storage;             // of input, output and their gradients
};

// Checks that the sizes fit one another. Every entry point begins with it.
inline Status validate(const DepthwiseNhwcParams& p) {
  if (p.batch < 0 || p.channels < 0 || p.height < 0 || p.width < 0 || p.out_height < 0 || p.out_width < 0)
    return invalid("sizes must not be negative");
  if (p.kernel < 1) return invalid("kernel must be at least 1");
  if (p.stride < 1) return invalid("stride must be at least 1");
  if (p.padding < 0) return invalid("padding must not be negative");
  const int64_t h = p.height + 2 * p.padding - p.kernel, w = p.width + 2 * p.padding - p.kernel;
  if (p.out_height != (h < 0 ? 0 : h / p.stride + 1))
    return invalid("out_height does not follow from the input");
  if (p.out_width != (w < 0 ? 0 : w / p.stride + 1))
    return invalid("out_width does not follow from the input");
  if (!is_known(p.weight_dtype) || !is_known(p.storage)) return invalid("dtypes must be float32 or bfloat16");
  return {};
}

// Bytes of scratch memory (any alignment) that a pass needs. `isa` as the pass gets it.
int64_t depthwise_nhwc_workspace_cpu(const DepthwiseNhwcParams& p, Pass pass, Isa isa);

// Overwrites output and, where they are wanted (both or neither is null), the mean and biased variance of
// each channel of the output before it is rounded to its storage type; of no values they are NaN.
Status depthwise_nhwc_forward_cpu(const DepthwiseNhwcParams& p,
                                  const void* input,   // [batch, height, width, channels]
                                  const void* weight,  // [>= channels, kernel, kernel]
                                  void* workspace, int threads, Isa isa,
                                  void* output,      // [batch, out_height, out_width, channels]
                                  float* mean,       // [channels] or null
                                  float* variance);  // [channels] or null

// Overwrites output with what follows the forward pass, which is not stored itself; without a residual.
Status depthwise_nhwc_predict_cpu(const DepthwiseNhwcParams& p, const void* input, const void* weight,
                                  const Prediction& then, void* workspace, int threads, Isa isa,
                                  void* output);

// Overwrites grad_input.
Status depthwise_nhwc_grad_input_cpu(const DepthwiseNhwcParams& p,
                                     const void* grad_output,  // [batch, out_height, out_width, channels]
                                     const void* weight,       // [>= channels, kernel, kernel]
                                     void* workspace, int threads, Isa isa,
                                     void* grad_input);  // [batch, height, width, channels]

// Overwrites the slice grad_weight[:channels] and touches nothing else: the caller zeroes the rest.
Status depthwise_nhwc_grad_weight_cpu(const DepthwiseNhwcParams& p,
                                      const void* grad_output,  // [batch, out_height, out_width, channels]
                                      const void* input,        // [batch, height, width, channels]
                                      void* workspace, int threads, Isa isa,
                                      float* grad_weight);  // [>= channels, kernel, kernel]

// Both gradients in one call, which reads grad_output from memory once; the same bits as two. weight_stride
// is the weight's. Needs as much workspace as the two passes together.
Status depthwise_nhwc_backward_cpu(const DepthwiseNhwcParams& p,
                                   const void* grad_output,  // [batch, out_height, out_width, channels]
                                   const void* input,        // [batch, height, width, channels]
                                   const void* weight,       // [>= channels, kernel, kernel]
                                   const int64_t* grad_weight_stride,  // [channels, kernel, kernel]
                                   void* workspace, int threads, Isa isa,
                                   void* grad_input,     // [batch, height, width, channels]
                                   float* grad_weight);  // [>= channels, kernel, kernel]

// ---- CUDA, asynchronous on `stream`. The same passes, shapes and results; statistics of values that are not
// finite are not finite.

// Returns whether the passes can be run; Code::unsupported, and why, or Code::invalid_argument.
Status depthwise_nhwc_supported_cuda(const DepthwiseNhwcParams& p);

// Bytes of device memory (any alignment) that a pass needs.
int64_t depthwise_nhwc_workspace_cuda(const DepthwiseNhwcParams& p, Pass pass);

Status depthwise_nhwc_forward_cuda(const DepthwiseNhwcParams& p, const void* input, const void* weight,
                                   void* workspace, int device, void* stream, void* output, float* mean,
                                   float* variance);
Status depthwise_nhwc_grad_input_cuda(const DepthwiseNhwcParams& p, const void* grad_output,
                                      const void* weight, void* workspace, int device, void* stream,
                                      void* grad_input);
Status depthwise_nhwc_grad_weight_cuda(const DepthwiseNhwcParams& p, const void* grad_output,
                                       const void* input, void* workspace, int device, void* stream,
                                       float* grad_weight);

// Both gradients, one after the other.
Status depthwise_nhwc_backward_cuda(const DepthwiseNhwcParams& p, const void* grad_output, const void* input,
                                    const void* weight, const int64_t* grad_weight_stride, void* workspace,
                                    int device, void* stream, void* grad_input, float* grad_weight);

}  // namespace lasfast
