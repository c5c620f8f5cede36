// The operations of a schedule for any processor: four floats at a time.
#include "vec_generic.h"

namespace {
constexpr int convolution_cells = 4;  // by two vectors, in registers
}  // namespace

#include "schedule_inl.h"

namespace lasfast {
const ScheduleKernels generic_schedule_kernels = {Vec::width, run<float, float>, run<Bf16, Bf16>,
                                                  run<Bf16, float>};
}
