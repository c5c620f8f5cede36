// Depthwise convolution with AVX-512F: sixteen floats at a time.
#include "vec_avx512.h"

#include "depthwise_nhwc_inl.h"

namespace lasfast {
const DepthwiseKernels avx512_depthwise_kernels = depthwise_kernels;
}  // namespace lasfast
