// Batch norm and activation with AVX2 and FMA, eight floats at a time.
#include "vec_avx2.h"
// (The vector type comes first.)
#include "bn_act_inl.h"

namespace lasfast {
const BnActKernels avx2_bn_act_kernels = bn_act_kernels;
}
