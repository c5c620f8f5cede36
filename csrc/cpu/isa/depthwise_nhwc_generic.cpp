// Depthwise convolution for any processor: four floats at a time.
#include "vec_generic.h"

namespace {
constexpr int weight_sums = 12;  // of the weight's gradient, in registers
}  // namespace

#include "depthwise_nhwc_inl.h"

namespace lasfast {
const DepthwiseKernels generic_depthwise_kernels = depthwise_kernels;
}  // namespace lasfast
