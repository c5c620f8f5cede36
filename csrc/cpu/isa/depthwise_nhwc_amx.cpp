// Depthwise convolution with AVX-512 (BW, VL) and its BF16 conversions.
#define LASFAST_TILES
#include "vec_avx512.h"

#include "depthwise_nhwc_inl.h"

namespace lasfast {
const DepthwiseKernels amx_depthwise_kernels = depthwise_kernels;
}  // namespace lasfast
