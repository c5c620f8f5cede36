// Products as fast as registers allow, of fp32 values and of pairs of bf16 values: for isa_preferred() to
// time.
#include <immintrin.h>

#include "../pair_speed_kernels.h"

namespace {

constexpr int sums = 16;  // enough to hide how long one takes

// step(sum) for `count` times `sums` sums, none of which the compiler may leave out.
template <class F>
inline void repeat(int count, F step) {
  __m512 sum[sums];
  for (int i = 0; i < sums; ++i) sum[i] = _mm512_setzero_ps();
  for (int k = 0; k < count; ++k)
    for (int i = 0; i < sums; ++i) {
      sum[i] = step(sum[i]);
      __asm__ volatile("" : "+v"(sum[i]));
    }
}

}  // namespace

namespace lasfast {

void multiply_floats(int count) {
  const __m512 one = _mm512_set1_ps(1.f);
  repeat(count, [=](__m512 sum) __attribute__((always_inline)) { return _mm512_fmadd_ps(one, one, sum); });
}

void multiply_pairs(int count) {
  const __m512i bits = _mm512_set1_epi32(0x3f803f80);  // ones
  __m512bh ones;
  __builtin_memcpy(&ones, &bits, sizeof ones);
  repeat(count, [=](__m512 sum) __attribute__((always_inline)) { return _mm512_dpbf16_ps(sum, ones, ones); });
}

}  // namespace lasfast
