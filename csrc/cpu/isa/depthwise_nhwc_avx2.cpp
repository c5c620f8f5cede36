// Depthwise convolution with AVX2 and FMA: eight floats at a time.
#include "vec_avx2.h"

#include "depthwise_nhwc_inl.h"

namespace lasfast {
const DepthwiseKernels avx2_depthwise_kernels = depthwise_kernels;
}  // namespace lasfast
