#include "lasfast/isa.h"

namespace lasfast {

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::generic:
      return "generic";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
  }
  return "unknown";
}

bool isa_compiled(Isa isa) {
  switch (isa) {
    case Isa::generic:
      return true;
    case Isa::avx2:
#ifdef LASFAST_HAS_AVX2
      return true;
#else
      return false;
#endif
    case Isa::avx512:
#ifdef LASFAST_HAS_AVX512
      return true;
#else
      return false;
#endif
  }
  return false;
}

bool isa_supported(Isa isa) {
  if (!isa_compiled(isa)) return false;
#if defined(LASFAST_HAS_AVX2) || defined(LASFAST_HAS_AVX512)
  // The compiler's run-time library asks xgetbv too: a register file the operating system does not save
  // counts as absent.
  __builtin_cpu_init();
  if (isa == Isa::avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (isa == Isa::avx512) return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("fma");
#endif
  return isa == Isa::generic;
}

}  // namespace lasfast
