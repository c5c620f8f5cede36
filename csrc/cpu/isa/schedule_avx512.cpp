// The operations of a schedule with AVX-512F: sixteen floats at a time, thirty-two registers.
#include "vec_avx512.h"

namespace {
constexpr int convolution_cells = 8;  // by two vectors, in registers
}  // namespace

#include "schedule_inl.h"

namespace lasfast {
const ScheduleKernels avx512_schedule_kernels = {Vec::width, run<float, float>, run<Bf16, Bf16>,
                                                 run<Bf16, float>};
}
