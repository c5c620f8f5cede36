// The weight gradient of a convolution on dense NHWC fp32 values with AVX2 and FMA: eight floats at a time.
#include "vec_avx2.h"

namespace {
constexpr int product_cells = 6;  // by two vectors, in registers
}  // namespace

#include "conv2d_nhwc_vectors_inl.h"

namespace lasfast {
const GradWeightKernels avx2_grad_weight_kernels = {1, sizeof(float), false, run<FloatProduct>, store};
}
