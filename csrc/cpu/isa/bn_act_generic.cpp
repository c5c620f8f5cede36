// Batch norm and activation, four floats at a time, for any processor.
#include "vec_generic.h"
// (The vector type comes first.)
#include "bn_act_inl.h"

namespace lasfast {
const BnActKernels generic_bn_act_kernels = bn_act_kernels;
}
