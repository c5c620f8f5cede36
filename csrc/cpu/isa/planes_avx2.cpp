// The plane loops with AVX2 and FMA: eight floats at a time, sixteen registers.
#include <immintrin.h>

#include "../planes.h"

namespace {

struct Vec {
  static constexpr int width = 8;
  __m256 v;

  static Vec zero() { return {_mm256_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec load_partial(const float* p, int n) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return {_mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes))};
  }
  static Vec broadcast(const float* p) { return {_mm256_broadcast_ss(p)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  void store(float* p) const { _mm256_storeu_ps(p, v); }
  float sum() const {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
  }
};

}  // namespace

#include "planes_inl.h"

namespace {

void correlate(const CorrelateArgs& a) {
  const int64_t end = (a.rows - 1) * a.pitch + a.cols;
  int64_t m0 = 0;
  correlate_rows<6, 2>(a, m0, 5, end);
  correlate_rows<4, 2>(a, m0, 2, end);
  correlate_rows<1, 8>(a, m0, 1, end);
}

void dot(const DotArgs& a) { a.m == 1 ? dot_all<1, 9>(a) : dot_all<3, 3>(a); }

}  // namespace

namespace lasfast {
const PlaneKernels avx2_plane_kernels = {3, correlate, dot};
}
