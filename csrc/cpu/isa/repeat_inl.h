// A few neighbouring floats, repeated through all of a vector: by the load itself, which leaves the units
// that multiply alone.
#pragma once

#include "target.h"

namespace {

template <int count>
LASFAST_INLINE Vec repeat(const float* p);

template <>
LASFAST_INLINE Vec repeat<1>(const float* p) {
  return Vec::broadcast(p);
}

#if defined(__AVX512F__)
template <>
LASFAST_INLINE Vec repeat<2>(const float* p) {
  double pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return {_mm512_castpd_ps(_mm512_set1_pd(pair))};
}
template <>
LASFAST_INLINE Vec repeat<4>(const float* p) {
  return {_mm512_broadcast_f32x4(_mm_loadu_ps(p))};
}
#elif defined(__AVX2__)
template <>
LASFAST_INLINE Vec repeat<2>(const float* p) {
  return {_mm256_castpd_ps(_mm256_broadcast_sd(reinterpret_cast<const double*>(p)))};
}
template <>
LASFAST_INLINE Vec repeat<4>(const float* p) {
  return {_mm256_broadcast_ps(reinterpret_cast<const __m128*>(p))};
}
#else  // vectors of four
template <>
LASFAST_INLINE Vec repeat<2>(const float* p) {
  const float values[W] = {p[0], p[1], p[0], p[1]};
  return Vec::load(values);
}
template <>
LASFAST_INLINE Vec repeat<4>(const float* p) {
  return Vec::load(p);
}
#endif

}  // namespace
