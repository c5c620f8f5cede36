// Batch norm and activation with AVX-512 (BW, VL) and its BF16 conversions.
#include "vec_avx512.h"
// (The vector type comes first.)
#include "bn_act_inl.h"

namespace lasfast {
const BnActKernels avx512_bf16_bn_act_kernels = bn_act_kernels;
}
