// Depthwise convolution with AVX-512 (BW, VL) and its BF16 conversions.
#include "vec_avx512.h"

namespace {
constexpr int weight_sums = 28;  // of the weight's gradient, in registers
}  // namespace

#include "depthwise_nhwc_inl.h"

namespace lasfast {
const DepthwiseKernels avx512_bf16_depthwise_kernels = depthwise_kernels;
}  // namespace lasfast
