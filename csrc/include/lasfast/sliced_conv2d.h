// 2-D convolution that reads the slice weight[:c_out, :c_in / groups] of a larger weight in place.
//
//   output[n, o, y, x] = sum over i, r, s of
//     input[n, g * (c_in / groups) + i, y * stride + r - padding, x * stride + s - padding] * weight[o, i, r,
//     s]
//
// with g = o / (c_out / groups), terms that fall into the padding left out. Every tensor is described by
// sizes and strides in elements, so slices, transposes and channels_last are all read in place. The kernels
// accumulate in fp32, in an order that depends on neither the batch a sample is in nor the number of threads:
// the same inputs give the same bits. They allocate nothing and keep nothing between calls.
#pragma once

#include <cstdint>

#include "lasfast/dtype.h"
#include "lasfast/isa.h"
#include "lasfast/status.h"

namespace lasfast {

struct SlicedConv2dParams {
  int64_t batch;
  int64_t c_in, height, width;           // active input channels (all groups together)
  int64_t c_out, out_height, out_width;  // active output channels
  int64_t kernel_h, kernel_w;
  int64_t stride, padding, groups;
  int64_t input_stride[4];   // [batch, c_in, height, width]; of the input, or of its gradient
  int64_t weight_stride[4];  // [c_out, c_in / groups, kernel_h, kernel_w]; of the weight, or of its gradient
  int64_t output_stride[4];  // [batch, c_out, out_height, out_width]; of the output, or of its gradient
};

// Checks that the sizes fit one another. Every entry point begins with it.
inline Status validate(const SlicedConv2dParams& p) {
  if (p.batch < 0 || p.c_in < 0 || p.height < 0 || p.width < 0 || p.c_out < 0 || p.out_height < 0 ||
      p.out_width < 0)
    return invalid("sizes must not be negative");
  if (p.kernel_h < 1 || p.kernel_w < 1) return invalid("kernel sizes must be at least 1");
  if (p.stride < 1) return invalid("stride must be at least 1");
  if (p.padding < 0) return invalid("padding must not be negative");
  if (p.groups < 1) return invalid("groups must be at least 1");
  if (p.c_in % p.groups != 0) return invalid("c_in must be divisible by groups");
  if (p.c_out % p.groups != 0) return invalid("c_out must be divisible by groups");
  const int64_t h = p.height + 2 * p.padding - p.kernel_h, w = p.width + 2 * p.padding - p.kernel_w;
  if (p.out_height != (h < 0 ? 0 : h / p.stride + 1))
    return invalid("out_height does not follow from the input");
  if (p.out_width != (w < 0 ? 0 : w / p.stride + 1))
    return invalid("out_width does not follow from the input");
  return {};
}

enum class Pass : int { forward = 0, grad_input = 1, grad_weight = 2 };

// ---- CPU, fp32. `isa` chooses the micro-kernels; one that isa_supported() denies gives Code::unsupported.

// Bytes of scratch memory (any alignment) that a pass needs with this many threads.
int64_t sliced_conv2d_workspace_cpu(const SlicedConv2dParams& p, Pass pass, int threads);

// Overwrites output.
Status sliced_conv2d_forward_cpu(const SlicedConv2dParams& p,
                                 const float* input,   // [batch, c_in, height, width]
                                 const float* weight,  // [>= c_out, >= c_in / groups, kernel_h, kernel_w]
                                 void* workspace, int threads, Isa isa,
                                 float* output);  // [batch, c_out, out_height, out_width]

// Overwrites grad_input.
Status sliced_conv2d_grad_input_cpu(const SlicedConv2dParams& p,
                                    const float* grad_output,  // [batch, c_out, out_height, out_width]
                                    const float* weight,  // [>= c_out, >= c_in / groups, kernel_h, kernel_w]
                                    void* workspace, int threads, Isa isa,
                                    float* grad_input);  // [batch, c_in, height, width]

// Overwrites the slice grad_weight[:c_out, :c_in / groups] and touches nothing else: the caller zeroes the
// rest.
Status sliced_conv2d_grad_weight_cpu(const SlicedConv2dParams& p,
                                     const float* grad_output,  // [batch, c_out, out_height, out_width]
                                     const float* input,        // [batch, c_in, height, width]
                                     void* workspace, int threads, Isa isa,
                                     float* grad_weight);  // [>= c_out, >= c_in / groups, kernel_h, kernel_w]

// ---- CUDA, fp32 and bf16 (all tensors of one call alike), asynchronous on `stream`. Same shapes and
// contracts.

// Bytes of device memory (16-byte aligned) that a pass needs.
int64_t sliced_conv2d_workspace_cuda(const SlicedConv2dParams& p, Pass pass);

Status sliced_conv2d_forward_cuda(const SlicedConv2dParams& p, Dtype dtype, const void* input,
                                  const void* weight, void* workspace, int device, void* stream,
                                  void* output);
Status sliced_conv2d_grad_input_cuda(const SlicedConv2dParams& p, Dtype dtype, const void* grad_output,
                                     const void* weight, void* workspace, int device, void* stream,
                                     void* grad_input);
Status sliced_conv2d_grad_weight_cuda(const SlicedConv2dParams& p, Dtype dtype, const void* grad_output,
                                      const void* input, void* workspace, int device, void* stream,
                                      void* grad_weight);

}  // namespace lasfast
