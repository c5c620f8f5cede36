// The weight gradient of a convolution on dense NHWC bf16 values with AVX-512 (BW, VL, BF16), by pairs of
// images.
#include "vec_avx512.h"

namespace {
constexpr int product_cells = 12;  // by two vectors, in registers
}  // namespace

#include "conv2d_nhwc_vectors_inl.h"

namespace lasfast {
const GradWeightKernels avx512_bf16_grad_weight_kernels = {2, sizeof(uint32_t), false, run<PairProduct>,
                                                           store};
}
