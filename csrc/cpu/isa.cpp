#include "lasfast/isa.h"

#ifdef LASFAST_HAS_AMX
#include <cpuid.h>
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace lasfast {
namespace {

#ifdef LASFAST_HAS_AMX
// Tiles are so large a register file that Linux gives it only to processes that ask.
bool tiles_permitted() {
#if defined(__linux__) && defined(SYS_arch_prctl)
  constexpr long request_permission = 0x1023, tile_data = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
  return false;
#endif
}

bool find_amx() {
  if (!isa_supported(Isa::avx512) || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24, avx512_bf16 = 1u << 5;
  if (!(d & amx_bf16) || !(d & amx_tile) || a < 1) return false;
  if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & avx512_bf16)) return false;
  return tiles_permitted();
}
#endif

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::generic:
      return "generic";
    case Isa::avx2:
      return "avx2";
    case Isa::avx512:
      return "avx512";
    case Isa::amx:
      return "amx";
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
    case Isa::amx:
#ifdef LASFAST_HAS_AMX
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
#ifdef LASFAST_HAS_AMX
  static const bool amx = find_amx();
  if (isa == Isa::amx) return amx;
#endif
  return isa == Isa::generic;
}

}  // namespace lasfast
