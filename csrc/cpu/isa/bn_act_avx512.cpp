// Batch norm and activation with AVX-512F, sixteen floats at a time.
#include "vec_avx512.h"
// (The vector type comes first.)
#include "bn_act_inl.h"

namespace lasfast {
const BnActKernels avx512_bn_act_kernels = bn_act_kernels;
}
