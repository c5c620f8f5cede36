// What one step of a product multiplies: four bytes of one side, which are broadcast, by a vector of as much
// of the other.
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
};

#ifdef __AVX512BF16__
struct PairProduct {
  using Cell = uint32_t;
  using Stored = lasfast::Bf16;
  static constexpr int values = 2;
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
#endif

}  // namespace
