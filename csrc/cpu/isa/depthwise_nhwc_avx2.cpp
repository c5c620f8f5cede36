// Depthwise convolution with AVX2 and FMA: eight floats at a time, sixteen registers.
#include "vec_avx2.h"

namespace {
constexpr int weight_sums = 12;  // of the weight's gradient, in registers
}  // namespace

#include "depthwise_nhwc_inl.h"

namespace lasfast {
const DepthwiseKernels avx2_depthwise_kernels = depthwise_kernels;
}  // namespace lasfast
