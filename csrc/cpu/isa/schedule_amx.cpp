// The operations of a schedule with AVX-512 (BW, VL, BF16) and AMX: convolutions on bf16 go through tiles.
#define LASFAST_TILES
#include "tile_config_amx.h"
#include "vec_avx512.h"

namespace {
constexpr int convolution_cells = 8;  // by two vectors, in registers
}  // namespace

#include "schedule_inl.h"

namespace lasfast {
const ScheduleKernels amx_schedule_kernels = {Vec::width, run<float, float>, run<Bf16, Bf16>,
                                              run<Bf16, float>};
}
