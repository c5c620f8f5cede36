// Depthwise convolution for any processor: four floats at a time.
#include "vec_generic.h"

#include "depthwise_nhwc_inl.h"

namespace lasfast {
const DepthwiseKernels generic_depthwise_kernels = depthwise_kernels;
}  // namespace lasfast
