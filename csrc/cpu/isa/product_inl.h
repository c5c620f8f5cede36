// What one step of a product multiplies: four bytes of one side, which are broadcast, by a vector of as much
// of the other.
//
// With NEON, an instruction broadcasts any lane of a vector by itself: one load has four bytes each for four
// steps (`lanes`), rather than for one.
#pragma once

#include "target.h"

namespace {

// A Cell holds `values` values that one product sums over; in memory they are Stored.
struct FloatProduct {
  using Cell = float;
  using Stored = float;
  static constexpr int values = 1;
  Vec v;

  LASFAST_INLINE static FloatProduct load(const Cell* p) { return {Vec::load(p)}; }
  LASFAST_INLINE static FloatProduct set(const Cell* p) { return {Vec::set(*p)}; }
  LASFAST_INLINE static Vec add(FloatProduct x, FloatProduct w, Vec sum) { return Vec::fma(x.v, w.v, sum); }
#ifdef LASFAST_VEC_NEON
  static constexpr int lanes = 4;
  template <int lane>
  LASFAST_INLINE static Vec add_lane(FloatProduct x, FloatProduct w, Vec sum) {
    return {vfmaq_laneq_f32(sum.v, w.v.v, x.v.v, lane)};
  }
#else
  static constexpr int lanes = 1;
#endif
};

#ifdef __AVX512BF16__
struct PairProduct {
  using Cell = uint32_t;
  using Stored = lasfast::Bf16;
  static constexpr int values = 2, lanes = 1;
  __m512bh v;

  LASFAST_INLINE static PairProduct of(__m512i bits) {
    PairProduct product;
    __builtin_memcpy(&product.v, &bits, sizeof bits);
    return product;
  }
  LASFAST_INLINE static PairProduct load(const Cell* p) { return of(_mm512_loadu_si512(p)); }
  LASFAST_INLINE static PairProduct set(const Cell* p) {
    int bits;
    __builtin_memcpy(&bits, p, sizeof bits);  // values in their place may lie at any even address
    return of(_mm512_set1_epi32(bits));
  }
  LASFAST_INLINE static Vec add(PairProduct x, PairProduct w, Vec sum) {
    return {_mm512_dpbf16_ps(sum.v, x.v, w.v)};
  }
};
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
struct PairProduct {
  using Cell = uint32_t;
  using Stored = lasfast::Bf16;
  static constexpr int values = 2, lanes = 4;
  bfloat16x8_t v;

  LASFAST_INLINE static PairProduct load(const Cell* p) {
    return {vreinterpretq_bf16_u16(vld1q_u16(reinterpret_cast<const uint16_t*>(p)))};
  }
  LASFAST_INLINE static PairProduct set(const Cell* p) {
    uint32_t bits;
    __builtin_memcpy(&bits, p, sizeof bits);  // values in their place may lie at any even address
    return {vreinterpretq_bf16_u32(vdupq_n_u32(bits))};
  }
  LASFAST_INLINE static Vec add(PairProduct x, PairProduct w, Vec sum) {
    return {vbfdotq_f32(sum.v, x.v, w.v)};
  }
  template <int lane>
  LASFAST_INLINE static Vec add_lane(PairProduct x, PairProduct w, Vec sum) {
    return {vbfdotq_laneq_f32(sum.v, w.v, x.v, lane)};
  }
};
#endif

}  // namespace
