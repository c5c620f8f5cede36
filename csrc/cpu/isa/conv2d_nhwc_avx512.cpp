// The weight gradient of a convolution on dense NHWC fp32 values with AVX-512F: sixteen floats at a time.
#include "vec_avx512.h"

namespace {
constexpr int product_cells = 12;  // by two vectors, in registers
}  // namespace

#include "conv2d_nhwc_vectors_inl.h"

namespace lasfast {
const GradWeightKernels avx512_grad_weight_kernels = {1, sizeof(float), false, run<FloatProduct>, store};
}
