// The operations of a schedule with AVX2 and FMA: eight floats at a time, sixteen registers.
#include "vec_avx2.h"

namespace {
constexpr int convolution_cells = 6;  // by two vectors, in registers
}  // namespace

#include "schedule_inl.h"

namespace lasfast {
const ScheduleKernels avx2_schedule_kernels = {Vec::width, run<float, float>, run<Bf16, Bf16>,
                                               run<Bf16, float>};
}
