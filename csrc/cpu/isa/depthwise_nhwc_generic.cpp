// Depthwise convolution for any processor: four floats at a time.
#include "depthwise_nhwc_inl.h"
#include "vec_generic.h"

namespace lasfast {
const DepthwiseKernels generic_depthwise_kernels = depthwise_kernels;
}  // namespace lasfast
