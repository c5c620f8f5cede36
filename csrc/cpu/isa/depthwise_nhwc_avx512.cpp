// Depthwise convolution with AVX-512F: sixteen floats at a time, thirty-two registers.
#include "vec_avx512.h"

namespace {
constexpr int weight_sums = 28;  // of the weight's gradient, in registers
}  // namespace

#include "depthwise_nhwc_inl.h"

namespace lasfast {
const DepthwiseKernels avx512_depthwise_kernels = depthwise_kernels;
}  // namespace lasfast
