#include "lasfast/isa.h"

#ifdef LASFAST_HAS_AVX512_BF16
#include <cpuid.h>
#endif
#if defined(LASFAST_HAS_AVX512_BF16) || defined(LASFAST_HAS_NEON_BF16)
#include <algorithm>
#include <chrono>

#include "pair_speed_kernels.h"
#endif
#if defined(LASFAST_HAS_AMX) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(LASFAST_HAS_NEON_BF16) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace lasfast {
namespace {

#ifdef LASFAST_HAS_AVX512_BF16
bool find_avx512_bf16() {
  if (!isa_supported(Isa::avx512) || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
    return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || a < 1) return false;
  constexpr unsigned avx512_bf16 = 1u << 5;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & avx512_bf16);
}
#endif

#ifdef LASFAST_HAS_NEON_BF16
bool find_neon_bf16() {
#ifdef __linux__
  constexpr unsigned long bf16 = 1ul << 14;  // HWCAP2_BF16, which headers have from Linux 5.6 on
  return getauxval(AT_HWCAP2) & bf16;
#else
  return false;
#endif
}
#endif

#if defined(LASFAST_HAS_AVX512_BF16) || defined(LASFAST_HAS_NEON_BF16)
// An instruction on pairs does the work of two on fp32 values. On Zen 4 and 5 it takes as long as one of
// these; an Intel processor was seen on which it takes as long as four. So far apart, a measurement tells
// them even on a busy machine, where each loop's shortest time counts, and it holds for processors that
// nobody has listed.
bool measure_pairs() {
  using Clock = std::chrono::steady_clock;
  constexpr int rounds = 64, count = 128;
  constexpr double most = 1.5;  // times as long
  const auto time = [](float (*loop)(int)) {
    const Clock::time_point began = Clock::now();
    loop(count);
    return Clock::now() - began;
  };
  Clock::duration floats = Clock::duration::max(), pairs = Clock::duration::max();
  for (int i = 0; i < rounds; ++i) {  // in turn, while the processor gets used to wide vectors
    floats = std::min(floats, time(multiply_floats));
    pairs = std::min(pairs, time(multiply_pairs));
  }
  return static_cast<double>(pairs.count()) < most * static_cast<double>(floats.count());
}

bool pairs_pay() {
  static const bool pay = measure_pairs();
  return pay;
}
#endif

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
  if (!isa_supported(Isa::avx512_bf16)) return false;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  constexpr unsigned amx_bf16 = 1u << 22, amx_tile = 1u << 24;
  return (d & amx_bf16) && (d & amx_tile) && tiles_permitted();
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
    case Isa::avx512_bf16:
      return "avx512_bf16";
    case Isa::amx:
      return "amx";
    case Isa::neon:
      return "neon";
    case Isa::neon_bf16:
      return "neon_bf16";
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
    case Isa::avx512_bf16:
#ifdef LASFAST_HAS_AVX512_BF16
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
    case Isa::neon:
#ifdef LASFAST_HAS_NEON
      return true;
#else
      return false;
#endif
    case Isa::neon_bf16:
#ifdef LASFAST_HAS_NEON_BF16
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
#ifdef LASFAST_HAS_AVX512_BF16
  static const bool avx512_bf16 = find_avx512_bf16();
  if (isa == Isa::avx512_bf16) return avx512_bf16;
#endif
#ifdef LASFAST_HAS_AMX
  static const bool amx = find_amx();
  if (isa == Isa::amx) return amx;
#endif
#ifdef LASFAST_HAS_NEON_BF16
  static const bool neon_bf16 = find_neon_bf16();
  if (isa == Isa::neon_bf16) return neon_bf16;
#endif
  return isa == Isa::generic || isa == Isa::neon;  // NEON is part of 64-bit ARM
}

Isa isa_preferred() {
  for (int i = isa_count - 1; i > 0; --i) {
    const Isa isa = static_cast<Isa>(i);
    if (!isa_supported(isa)) continue;
#if defined(LASFAST_HAS_AVX512_BF16) || defined(LASFAST_HAS_NEON_BF16)
    if ((isa == Isa::avx512_bf16 || isa == Isa::neon_bf16) && !pairs_pay()) continue;
#endif
    return isa;
  }
  return Isa::generic;
}

}  // namespace lasfast
