// The operations of a schedule with AVX-512 (BW, VL, BF16): dense convolutions on bf16 multiply pairs of
// channels.
#define LASFAST_PAIRS
#include "vec_avx512.h"

namespace {
constexpr int convolution_cells = 12;  // by two vectors, in registers
}  // namespace

#include "schedule_inl.h"

namespace lasfast {
const ScheduleKernels avx512_bf16_schedule_kernels = {Vec::width, run<float, float>, run<Bf16, Bf16>,
                                                      run<Bf16, float>};
}
