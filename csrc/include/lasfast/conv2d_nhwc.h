// 2-D convolution on dense NHWC values ("channels_last"), one group: what a training step computes of it.
//
//   output[n, y, x, o] = sum over i, r, s of
//     input[n, y * stride + r - padding, x * stride + s - padding, i] * weight[o, i, r, s]
//
// terms that fall into the padding left out, with its two gradients. The weight is the slice [:c_out, :c_in]
// of a larger one, read in place; on bf16 values it is rounded to bf16 (and its gradient is not). Sums are
// fp32, in an order that does not depend on the number of threads: the same inputs give the same bits.
// Nothing is allocated, or kept between calls.
//
// All passes: on fp32 values with any instruction set, on bf16 values where multiplies_bf16(isa).
// Kernels up to 11, and in the forward pass paddings below the kernel. Everything else gives
// Code::unsupported. With a `tile`, passes run by Winograd's algorithm (see Operation::tile): kernels of 3,
// stride 1, paddings up to 2, on fp32 values and weights.
//
// Values that are not finite do what they do by the definition, with three exceptions. With a `tile`, they
// make all outputs of their tiles, and all taps of the weight's gradient for their channels, not finite. The
// weight's gradient may multiply them by the padding's zeros, unless c_in is a multiple of 64. The input's
// gradient may multiply them by zeros for taps that a position has not, with a padding of the kernel's size
// or more. And avx512_bf16 and neon_bf16 take what is below the least normal number for zero.
#pragma once

#include <cstdint>

#include "lasfast/dtype.h"
#include "lasfast/isa.h"
#include "lasfast/prediction.h"
#include "lasfast/sliced_conv2d.h"
#include "lasfast/status.h"

namespace lasfast {

struct Conv2dNhwcParams {
  int64_t batch;
  int64_t c_in, height, width;
  int64_t c_out, out_height, out_width;
  int64_t kernel, stride, padding;
  int64_t weight_stride[4];  // [c_out, c_in, kernel, kernel]; of the weight, or of its gradient
  Dtype storage;             // of input and output and their gradients
  Dtype weight;              // of the weight; its gradient is fp32
  bool tf32 = false;         // CUDA: whether products of fp32 values may be TF32's
  bool warpgroups = false;   // CUDA: whether products of bf16 values are those of Hopper's warpgroups
  bool packed = false;       // CUDA: whether the weight is what conv2d_nhwc_pack_cuda made of it for the pass
  bool early = false;  // CUDA: whether a kernel of lasfast's is queued right before: passes over windows
                       // of a packed weight may then begin before it has ended
  int64_t tile =
      0;  // CPU: 2 or 4 rows and columns that Winograd's algorithm computes at once, or 0: see below
};

// Checks that the sizes fit one another. Every entry point begins with it.
Status validate(const Conv2dNhwcParams& p);

// Returns whether the pass can be run; Code::unsupported, and why, or Code::invalid_argument.
Status conv2d_nhwc_supported(const Conv2dNhwcParams& p, Pass pass, Isa isa);

// Bytes of scratch memory (any alignment) that a pass needs with this many threads; 0 if it cannot be run.
int64_t conv2d_nhwc_workspace_cpu(const Conv2dNhwcParams& p, Pass pass, int threads, Isa isa);

// Overwrites output and, where they are not null, mean and (biased) variance over all images and positions of
// each channel, of the sums before they are rounded.
Status conv2d_nhwc_forward_cpu(const Conv2dNhwcParams& p,
                               const void* input,   // [batch, height, width, c_in]
                               const void* weight,  // [>= c_out, >= c_in, kernel, kernel]
                               void* workspace, int threads, Isa isa,
                               void* output,      // [batch, out_height, out_width, c_out]
                               float* mean,       // [c_out], or null
                               float* variance);  // [c_out], or null

// Overwrites output with what follows the forward pass, which is not stored itself.
Status conv2d_nhwc_predict_cpu(const Conv2dNhwcParams& p, const void* input, const void* weight,
                               const Prediction& then, void* workspace, int threads, Isa isa, void* output);

// Overwrites grad_input.
Status conv2d_nhwc_grad_input_cpu(const Conv2dNhwcParams& p,
                                  const void* grad_output,  // [batch, out_height, out_width, c_out]
                                  const void* weight,       // [>= c_out, >= c_in, kernel, kernel]
                                  void* workspace, int threads, Isa isa,
                                  void* grad_input);  // [batch, height, width, c_in]

// Overwrites the slice grad_weight[:c_out, :c_in] and touches nothing else: the caller zeroes the rest.
// Quickest where the input channels of grad_weight are neighbours in memory.
Status conv2d_nhwc_grad_weight_cpu(const Conv2dNhwcParams& p,
                                   const void* grad_output,  // [batch, out_height, out_width, c_out]
                                   const void* input,        // [batch, height, width, c_in]
                                   void* workspace, int threads, Isa isa,
                                   float* grad_weight);  // [>= c_out, >= c_in, kernel, kernel]

// ---- CUDA, asynchronous on `stream`. The same passes, shapes and results, with these differences: every
// pass runs on fp32 (in fp32, or on tensor cores with `tf32`) and on bf16 (on tensor cores), with any
// padding. Padding enters products as zero, which values that are not finite may meet; statistics with such
// values are not finite. With `warpgroups`, on devices that schedule_has_warpgroups_cuda is true of: more
// than 32 output channels (of grad_input: input channels), and input channels that are a multiple of eight;
// for the weight's gradient, output channels, too.

Status conv2d_nhwc_supported_cuda(const Conv2dNhwcParams& p, Pass pass);

// Bytes of device memory (any alignment) that a pass needs; 0 if it cannot be run.
int64_t conv2d_nhwc_workspace_cuda(const Conv2dNhwcParams& p, Pass pass);

// Bytes of what a pass's weight is packed to, a multiple of 16; 0 for the weight's gradient, or where the
// pass cannot be run. For the forward pass, counters stand behind the weight: it changes them, and leaves
// them as they were, so that one call at a time may read what was packed.
int64_t conv2d_nhwc_packed_bytes_cuda(const Conv2dNhwcParams& p, Pass pass);

// A weight, and what it is packed to for the forward pass and for the gradient of the input, each of which
// packs it for itself where it is not `packed`. Both results are aligned to 16 bytes.
struct Conv2dNhwcPacking {
  Conv2dNhwcParams params;
  const void* weight;
  void *forward, *grad_input;
};

// Packs weights in few launches: in one where there are at most 18, all of the same types.
Status conv2d_nhwc_pack_cuda(const Conv2dNhwcPacking* packings, int64_t count, int device, void* stream);

Status conv2d_nhwc_forward_cuda(const Conv2dNhwcParams& p, const void* input, const void* weight,
                                void* workspace, int device, void* stream, void* output, float* mean,
                                float* variance);
Status conv2d_nhwc_grad_input_cuda(const Conv2dNhwcParams& p, const void* grad_output, const void* weight,
                                   void* workspace, int device, void* stream, void* grad_input);
Status conv2d_nhwc_grad_weight_cuda(const Conv2dNhwcParams& p, const void* grad_output, const void* input,
                                    void* workspace, int device, void* stream, float* grad_weight);

}  // namespace lasfast
