// What operations on the CPU share of threads and instruction sets.
#pragma once

#ifdef _OPENMP
#include <omp.h>
#endif

#include "lasfast/isa.h"
#include "lasfast/status.h"

namespace lasfast {

// This thread's number within a parallel region.
inline int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

inline Status check_run(int threads, Isa isa) {
  if (threads < 1) return invalid("threads must be at least 1");
  if (!isa_supported(isa)) return unsupported("this machine or build lacks the instruction set asked for");
  return {};
}

}  // namespace lasfast
