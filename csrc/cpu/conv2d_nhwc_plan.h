// What the files of conv2d_nhwc share.
#pragma once

#include <cstdint>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "conv2d_nhwc_kernels.h"
#include "lasfast/conv2d_nhwc.h"
#include "schedule_layout.h"

namespace lasfast {

inline int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

inline char* align_scratch(void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return reinterpret_cast<char*>((address + scratch_line - 1) / scratch_line * scratch_line);
}

// Parameters were checked, and nothing is empty.
int64_t grad_weight_workspace(const Conv2dNhwcParams& p, int threads);
void grad_weight(const Conv2dNhwcParams& p, const GradWeightKernels& kernels, const Bf16* grad_output,
                 const Bf16* input, void* workspace, int threads, float* result);

}  // namespace lasfast
