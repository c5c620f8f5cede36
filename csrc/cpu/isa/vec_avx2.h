// Eight floats with AVX2 and FMA.
#pragma once

#include <immintrin.h>

#include "../vec.h"

namespace {

struct Vec {
  static constexpr int width = 8;
  __m256 v;

  LASFAST_INLINE static Vec zero() { return {_mm256_setzero_ps()}; }
  LASFAST_INLINE static Vec set(float x) { return {_mm256_set1_ps(x)}; }
  static __m256i first(int n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  LASFAST_INLINE static Vec broadcast(const float* p) { return {_mm256_broadcast_ss(p)}; }
  LASFAST_INLINE static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  LASFAST_INLINE static Vec load_partial(const float* p, int n) { return {_mm256_maskload_ps(p, first(n))}; }
  LASFAST_INLINE static Vec widen(__m128i bits) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
  }
  LASFAST_INLINE static Vec load(const lasfast::Bf16* p) {
    return widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  LASFAST_INLINE static Vec load_partial(const lasfast::Bf16* p, int n) {
    alignas(16) lasfast::Bf16 some[width] = {};
    for (int i = 0; i < n; ++i) some[i] = p[i];
    return load(some);
  }
  LASFAST_INLINE void store(float* p) const { _mm256_storeu_ps(p, v); }
  LASFAST_INLINE void store_partial(float* p, int n) const { _mm256_maskstore_ps(p, first(n), v); }
  __m128i rounded() const {
    const __m256i bits = _mm256_castps_si256(v), high = _mm256_srli_epi32(bits, 16);
    const __m256i even = _mm256_srli_epi32(_mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)),
                                                            _mm256_and_si256(high, _mm256_set1_epi32(1))),
                                           16);
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i all = _mm256_blendv_epi8(even, _mm256_or_si256(high, _mm256_set1_epi32(0x40)), nan);
    return _mm_packus_epi32(_mm256_castsi256_si128(all), _mm256_extracti128_si256(all, 1));
  }
  LASFAST_INLINE void store(lasfast::Bf16* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), rounded());
  }
  LASFAST_INLINE void store_partial(lasfast::Bf16* p, int n) const {
    alignas(16) lasfast::Bf16 some[width];
    store(some);
    for (int i = 0; i < n; ++i) p[i] = some[i];
  }
  LASFAST_INLINE static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  LASFAST_INLINE static Vec add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  LASFAST_INLINE static Vec sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  LASFAST_INLINE static Vec mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  LASFAST_INLINE static Vec div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
  LASFAST_INLINE float sum() const {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
  LASFAST_INLINE static Vec max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  LASFAST_INLINE static Vec min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
  LASFAST_INLINE static Vec nan_or(Vec a, Vec b) {
    return {_mm256_blendv_ps(b.v, a.v, _mm256_cmp_ps(a.v, a.v, _CMP_UNORD_Q))};
  }
  LASFAST_INLINE static Vec select_above(Vec a, float x, Vec b, Vec c) {
    return {_mm256_blendv_ps(c.v, b.v, _mm256_cmp_ps(a.v, _mm256_set1_ps(x), _CMP_GT_OQ))};
  }
  LASFAST_INLINE static Vec zero_outside(Vec a, Vec x, Vec low, Vec high) {
    return {_mm256_and_ps(
        a.v, _mm256_and_ps(_mm256_cmp_ps(x.v, low.v, _CMP_NLE_UQ), _mm256_cmp_ps(x.v, high.v, _CMP_NGE_UQ)))};
  }
  LASFAST_INLINE static Vec gather(const float* p, const int32_t* indices) {
    return {_mm256_i32gather_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices)), 4)};
  }
  using Lanes = __m256i;
  LASFAST_INLINE static Lanes lanes(const int32_t* indices) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(indices));
  }
  LASFAST_INLINE static Vec permute(Vec a, Lanes l) { return {_mm256_permutevar8x32_ps(a.v, l)}; }
  LASFAST_INLINE static Vec add_exponent(Vec a, Vec t) {
    return {_mm256_castsi256_ps(
        _mm256_add_epi32(_mm256_castps_si256(a.v), _mm256_slli_epi32(_mm256_castps_si256(t.v), 23)))};
  }
};

}  // namespace
