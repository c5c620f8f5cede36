// Four floats through the compiler's own vectors (SSE2, NEON, ...), for any processor.
#pragma once

#include "../vec.h"

namespace {

struct Vec {
  static constexpr int width = 4;
  typedef float Floats __attribute__((vector_size(16)));
  typedef int32_t Ints __attribute__((vector_size(16)));
  typedef uint32_t Bits __attribute__((vector_size(16)));
  Floats v;

  LASFAST_INLINE static Vec zero() { return set(0.f); }
  LASFAST_INLINE static Vec set(float x) { return {Floats{x, x, x, x}}; }
  LASFAST_INLINE static Vec broadcast(const float* p) { return set(*p); }
  LASFAST_INLINE static Vec load(const float* p) {
    Vec r;
    __builtin_memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  LASFAST_INLINE static Vec load_partial(const float* p, int n) {
    Vec r = zero();
    for (int i = 0; i < n; ++i) r.v[i] = p[i];
    return r;
  }
  LASFAST_INLINE static Vec load(const lasfast::Bf16* p) { return load_partial(p, width); }
  LASFAST_INLINE static Vec load_partial(const lasfast::Bf16* p, int n) {
    Bits bits = {0, 0, 0, 0};
    for (int i = 0; i < n; ++i) bits[i] = static_cast<uint32_t>(p[i].bits) << 16;
    return {reinterpret_cast<Floats>(bits)};
  }
  LASFAST_INLINE void store(float* p) const { __builtin_memcpy(p, &v, sizeof v); }
  LASFAST_INLINE void store_partial(float* p, int n) const {
    for (int i = 0; i < n; ++i) p[i] = v[i];
  }
  LASFAST_INLINE void store(lasfast::Bf16* p) const { store_partial(p, width); }
  LASFAST_INLINE void store_partial(lasfast::Bf16* p, int n) const {
    const Bits bits = reinterpret_cast<Bits>(v);
    const Bits nan = reinterpret_cast<Bits>(v != v);
    const Bits even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const Bits rounded = (nan & ((bits >> 16) | 0x40u)) | (~nan & even);
    for (int i = 0; i < n; ++i) p[i].bits = static_cast<uint16_t>(rounded[i]);
  }
  LASFAST_INLINE static Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
  LASFAST_INLINE static Vec add(Vec a, Vec b) { return {a.v + b.v}; }
  LASFAST_INLINE static Vec sub(Vec a, Vec b) { return {a.v - b.v}; }
  LASFAST_INLINE static Vec mul(Vec a, Vec b) { return {a.v * b.v}; }
  LASFAST_INLINE static Vec div(Vec a, Vec b) { return {a.v / b.v}; }
  LASFAST_INLINE static Vec choose(Ints where, Vec a, Vec b) {
    return {reinterpret_cast<Floats>((where & reinterpret_cast<Ints>(a.v)) |
                                     (~where & reinterpret_cast<Ints>(b.v)))};
  }
  LASFAST_INLINE float sum() const { return (v[0] + v[1]) + (v[2] + v[3]); }
  LASFAST_INLINE static Vec max(Vec a, Vec b) { return choose(a.v > b.v, a, b); }
  LASFAST_INLINE static Vec min(Vec a, Vec b) { return choose(a.v < b.v, a, b); }
  LASFAST_INLINE static Vec nan_or(Vec a, Vec b) { return choose(a.v != a.v, a, b); }
  LASFAST_INLINE static Vec select_above(Vec a, float x, Vec b, Vec c) {
    return choose(a.v > set(x).v, b, c);
  }
  LASFAST_INLINE static Vec zero_outside(Vec a, Vec x, Vec low, Vec high) {
    return choose((x.v <= low.v) | (x.v >= high.v), zero(), a);
  }
  LASFAST_INLINE static Vec gather(const float* p, const int32_t* indices) {
    return {Floats{p[indices[0]], p[indices[1]], p[indices[2]], p[indices[3]]}};
  }
  using Lanes = const int32_t*;
  LASFAST_INLINE static Lanes lanes(const int32_t* indices) { return indices; }
  LASFAST_INLINE static Vec permute(Vec a, Lanes l) {
    return {Floats{a.v[l[0]], a.v[l[1]], a.v[l[2]], a.v[l[3]]}};
  }
  LASFAST_INLINE static Vec add_exponent(Vec a, Vec t) {
    return {reinterpret_cast<Floats>(reinterpret_cast<Bits>(a.v) + (reinterpret_cast<Bits>(t.v) << 23))};
  }
};

}  // namespace
