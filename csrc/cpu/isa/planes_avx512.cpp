// The plane loops with AVX-512F: sixteen floats at a time, thirty-two registers.
#include <immintrin.h>

#include "../planes.h"

namespace {

struct Vec {
  static constexpr int width = 16;
  __m512 v;

  static Vec zero() { return {_mm512_setzero_ps()}; }
  static Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec load_partial(const float* p, int n) {
    return {_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << n) - 1u), p)};
  }
  static Vec broadcast(const float* p) { return {_mm512_set1_ps(*p)}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  void store(float* p) const { _mm512_storeu_ps(p, v); }
  float sum() const { return _mm512_reduce_add_ps(v); }
};

}  // namespace

#include "planes_inl.h"

namespace {

void correlate(const CorrelateArgs& a) {
  const int64_t end = (a.rows - 1) * a.pitch + a.cols;
  int64_t m0 = 0;
  correlate_rows<8, 3>(a, m0, 5, end);
  correlate_rows<4, 6>(a, m0, 2, end);
  correlate_rows<1, 8>(a, m0, 1, end);
}

void dot(const DotArgs& a) { a.m == 1 ? dot_all<1, 9>(a) : dot_all<4, 6>(a); }

}  // namespace

namespace lasfast {
const PlaneKernels avx512_plane_kernels = {4, correlate, dot};
}
