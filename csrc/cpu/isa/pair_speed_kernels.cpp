// Multiplies fp32 values and pairs of bf16 values as fast as registers allow, for isa_preferred() to time.
#include "../pair_speed_kernels.h"

#include <immintrin.h>

namespace {

constexpr int sums = 24;  // enough to hide how long one takes

// sum = step(sum) for `count` times `sums` sums. They begin differently, or the compiler would compute but
// one, and their total is the result, or it would compute none.
template <class F>
inline float repeat(int count, F step) {
  __m512 sum[sums];
#pragma GCC unroll 24
  for (int i = 0; i < sums; ++i) sum[i] = _mm512_set1_ps(static_cast<float>(i));
  for (int k = 0; k < count; ++k) {
#pragma GCC unroll 24
    for (int i = 0; i < sums; ++i) sum[i] = step(sum[i]);
  }
#pragma GCC unroll 24
  for (int i = 1; i < sums; ++i) sum[0] = _mm512_add_ps(sum[0], sum[i]);
  return _mm512_cvtss_f32(sum[0]);
}

}  // namespace

namespace lasfast {

float multiply_floats(int count) {
  const __m512 one = _mm512_set1_ps(1.f);
  return repeat(count,
                [=](__m512 sum) __attribute__((always_inline)) { return _mm512_fmadd_ps(one, one, sum); });
}

float multiply_pairs(int count) {
  const __m512i bits = _mm512_set1_epi32(0x3f803f80);  // ones
  __m512bh ones;
  __builtin_memcpy(&ones, &bits, sizeof ones);
  return repeat(count,
                [=](__m512 sum) __attribute__((always_inline)) { return _mm512_dpbf16_ps(sum, ones, ones); });
}

}  // namespace lasfast
