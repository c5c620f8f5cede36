// What operations on the CPU share of threads and instruction sets.
#pragma once

#include <cstdint>

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

// What a region costs for each of its threads, in nanoseconds, where threads sleep in between: to wake it,
// and to wait for it at the end.
constexpr double thread_ns = 10'000;
// What one thread takes, in nanoseconds, for a multiply-add of a convolution, for a byte that is read or
// written near the core, and for a weight that is packed or unpacked: about as much as in fp32 with AVX2.
// (docs/performance.md says how these four were measured.)
constexpr double multiply_add_ns = 1. / 30, byte_ns = 1. / 20, weight_ns = 2;

// Returns how many threads should share so many items, which take one thread `ns` nanoseconds together: all,
// or one where the others would cost more than they save. It is no number in between: GNU's runtime keeps its
// threads while it makes teams of one and of all, but ends those that another team leaves out, and makes them
// again for the next.
inline int paying_threads(int threads, int64_t items, double ns) {
  const double saved = ns - ns / threads;
  return items > 1 && saved > threads * thread_ns ? threads : 1;
}

inline Status check_run(int threads, Isa isa) {
  if (threads < 1) return invalid("threads must be at least 1");
  if (!isa_supported(isa)) return unsupported("this machine or build lacks the instruction set asked for");
  return {};
}

}  // namespace lasfast
