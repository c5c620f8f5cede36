// Sixteen floats with AVX-512F; with AVX-512BW, VL and the BF16 conversions where a file is
// compiled for these.
#pragma once

#include <immintrin.h>

#include "../vec.h"

namespace {

struct Vec {
  static constexpr int width = 16;
  __m512 v;

  LASFAST_INLINE static Vec zero() { return {_mm512_setzero_ps()}; }
  LASFAST_INLINE static Vec set(float x) { return {_mm512_set1_ps(x)}; }
  static __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }
  LASFAST_INLINE static Vec broadcast(const float* p) { return set(*p); }
  LASFAST_INLINE static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  LASFAST_INLINE static Vec load_partial(const float* p, int n) {
    return {_mm512_maskz_loadu_ps(first(n), p)};
  }
  LASFAST_INLINE static Vec widen(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  LASFAST_INLINE static Vec load(const lasfast::Bf16* p) {
    return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  LASFAST_INLINE void store(float* p) const { _mm512_storeu_ps(p, v); }
  LASFAST_INLINE void store_partial(float* p, int n) const { _mm512_mask_storeu_ps(p, first(n), v); }
#ifdef __AVX512BF16__
  LASFAST_INLINE static Vec load_partial(const lasfast::Bf16* p, int n) {
    return widen(_mm256_maskz_loadu_epi16(first(n), p));
  }
  __m256i rounded() const {
    const __m256bh half = _mm512_cvtneps_pbh(v);
    __m256i bits;
    __builtin_memcpy(&bits, &half, sizeof bits);
    return bits;
  }
  LASFAST_INLINE void store_partial(lasfast::Bf16* p, int n) const {
    _mm256_mask_storeu_epi16(p, first(n), rounded());
  }
#else
  LASFAST_INLINE static Vec load_partial(const lasfast::Bf16* p, int n) {
    alignas(32) lasfast::Bf16 some[width] = {};
    for (int i = 0; i < n; ++i) some[i] = p[i];
    return load(some);
  }
  __m256i rounded() const {
    const __m512i bits = _mm512_castps_si512(v), high = _mm512_srli_epi32(bits, 16);
    const __m512i even = _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)),
                                                            _mm512_and_si512(high, _mm512_set1_epi32(1))),
                                           16);
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    return _mm512_cvtepi32_epi16(_mm512_mask_or_epi32(even, nan, high, _mm512_set1_epi32(0x40)));
  }
  LASFAST_INLINE void store_partial(lasfast::Bf16* p, int n) const {
    alignas(32) lasfast::Bf16 some[width];
    store(some);
    for (int i = 0; i < n; ++i) p[i] = some[i];
  }
#endif
  LASFAST_INLINE void store(lasfast::Bf16* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), rounded());
  }
  LASFAST_INLINE static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  LASFAST_INLINE static Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  LASFAST_INLINE static Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  LASFAST_INLINE static Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  LASFAST_INLINE static Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
  LASFAST_INLINE float sum() const { return _mm512_reduce_add_ps(v); }
  LASFAST_INLINE static Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  LASFAST_INLINE static Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
  LASFAST_INLINE static Vec nan_or(Vec a, Vec b) {
    return {_mm512_mask_mov_ps(b.v, _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q), a.v)};
  }
  LASFAST_INLINE static Vec select_above(Vec a, float x, Vec b, Vec c) {
    return {_mm512_mask_mov_ps(c.v, _mm512_cmp_ps_mask(a.v, _mm512_set1_ps(x), _CMP_GT_OQ), b.v)};
  }
  LASFAST_INLINE static Vec zero_outside(Vec a, Vec x, Vec low, Vec high) {
    const __mmask16 above = _mm512_cmp_ps_mask(x.v, low.v, _CMP_NLE_UQ);
    return {_mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask(above, x.v, high.v, _CMP_NGE_UQ), a.v)};
  }
  LASFAST_INLINE static Vec gather(const float* p, const int32_t* indices) {
    return {_mm512_i32gather_ps(_mm512_loadu_si512(indices), p, 4)};
  }
  using Lanes = __m512i;
  LASFAST_INLINE static Lanes lanes(const int32_t* indices) { return _mm512_loadu_si512(indices); }
  LASFAST_INLINE static Vec permute(Vec a, Lanes l) { return {_mm512_permutexvar_ps(l, a.v)}; }
  LASFAST_INLINE static Vec add_exponent(Vec a, Vec t) {
    return {_mm512_castsi512_ps(
        _mm512_add_epi32(_mm512_castps_si512(a.v), _mm512_slli_epi32(_mm512_castps_si512(t.v), 23)))};
  }
};

}  // namespace
