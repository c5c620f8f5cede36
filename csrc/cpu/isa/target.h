// The instruction set that a file of this folder is compiled for. Each file that includes this one is
// compiled once for each of several (CMakeLists.txt says which), and adds a table of functions for it.
//
// Everything in this folder has internal linkage but those tables, and nothing of the standard library is
// called: a function shared between files that are compiled for different instruction sets could be linked in
// the variant that others cannot run.
#pragma once

#include <cstdint>

#include "lasfast/isa.h"

#if defined(LASFAST_FOR_GENERIC)
#define LASFAST_ISA generic
#include "vec_generic.h"
#elif defined(LASFAST_FOR_AVX2)
#define LASFAST_ISA avx2
#include "vec_avx2.h"
#elif defined(LASFAST_FOR_AVX512)
#define LASFAST_ISA avx512
#include "vec_avx512.h"
#elif defined(LASFAST_FOR_AVX512_BF16)
#define LASFAST_ISA avx512_bf16
#include "vec_avx512.h"
#elif defined(LASFAST_FOR_AMX)
#define LASFAST_ISA amx
#include "vec_avx512.h"
#elif defined(LASFAST_FOR_NEON)
#define LASFAST_ISA neon
#include "vec_neon.h"
#elif defined(LASFAST_FOR_NEON_BF16)
#define LASFAST_ISA neon_bf16
#include "vec_neon.h"
#endif

// The name of this instruction set's table: avx2_plane_kernels for plane_kernels.
#define LASFAST_TABLE(name) LASFAST_TABLE_OF(LASFAST_ISA, name)
#define LASFAST_TABLE_OF(isa, name) LASFAST_TABLE_NAME(isa, name)
#define LASFAST_TABLE_NAME(isa, name) isa##_##name

namespace {

constexpr lasfast::Isa isa = lasfast::Isa::LASFAST_ISA;
constexpr int W = Vec::width;

inline int64_t at_most(int64_t value, int64_t bound) { return value < bound ? value : bound; }
inline int64_t at_least(int64_t value, int64_t bound) { return value > bound ? value : bound; }

// The first n values, all of a vector or fewer.
template <class T>
LASFAST_INLINE Vec load_n(const T* p, int n) {
  return n == W ? Vec::load(p) : Vec::load_partial(p, n);
}
template <class T>
LASFAST_INLINE void store_n(Vec v, T* p, int n) {
  n == W ? v.store(p) : v.store_partial(p, n);
}

}  // namespace
