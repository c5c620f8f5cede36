// Finds the table of kernels for an instruction set, among those that this build has.
#pragma once

#include <algorithm>

#include "lasfast/isa.h"

// The table of an instruction set, or null where this build lacks it: LASFAST_AVX2(plane_kernels).
#define LASFAST_GENERIC(table) &generic_##table
#ifdef LASFAST_HAS_AVX2
#define LASFAST_AVX2(table) &avx2_##table
#else
#define LASFAST_AVX2(table) nullptr
#endif
#ifdef LASFAST_HAS_AVX512
#define LASFAST_AVX512(table) &avx512_##table
#else
#define LASFAST_AVX512(table) nullptr
#endif
#ifdef LASFAST_HAS_AVX512_BF16
#define LASFAST_AVX512_BF16(table) &avx512_bf16_##table
#else
#define LASFAST_AVX512_BF16(table) nullptr
#endif
#ifdef LASFAST_HAS_AMX
#define LASFAST_AMX(table) &amx_##table
#else
#define LASFAST_AMX(table) nullptr
#endif
#ifdef LASFAST_HAS_NEON
#define LASFAST_NEON(table) &neon_##table
#else
#define LASFAST_NEON(table) nullptr
#endif
#ifdef LASFAST_HAS_NEON_BF16
#define LASFAST_NEON_BF16(table) &neon_bf16_##table
#else
#define LASFAST_NEON_BF16(table) nullptr
#endif

namespace lasfast {

template <class Kernels>
struct KernelTables {
  const Kernels* tables[isa_count];  // null: as the one before

  const Kernels& operator[](Isa isa) const {
    int i = std::clamp(static_cast<int>(isa), 0, isa_count - 1);
    while (i > 0 && !tables[i]) --i;
    return *tables[i];
  }
};

}  // namespace lasfast
