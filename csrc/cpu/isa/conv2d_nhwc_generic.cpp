// The weight gradient of a convolution on dense NHWC fp32 values on any processor.
#include "vec_generic.h"

namespace {
constexpr int product_cells = 4;  // by two vectors, in registers
}  // namespace

#include "conv2d_nhwc_vectors_inl.h"

namespace lasfast {
const GradWeightKernels generic_grad_weight_kernels = {1, sizeof(float), false, run<FloatProduct>, store};
}
