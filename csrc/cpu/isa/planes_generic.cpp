// The plane loops for any processor: four floats at a time through the compiler's own vectors (SSE2, NEON,
// ...).
#include "../planes.h"

namespace {

struct Vec {
  static constexpr int width = 4;
  typedef float Floats __attribute__((vector_size(16)));
  Floats v;

  static Vec zero() { return {Floats{0.f, 0.f, 0.f, 0.f}}; }
  static Vec load(const float* p) {
    Vec r;
    __builtin_memcpy(&r.v, p, sizeof r.v);
    return r;
  }
  static Vec load_partial(const float* p, int n) {
    Vec r = zero();
    for (int i = 0; i < n; ++i) r.v[i] = p[i];
    return r;
  }
  static Vec broadcast(const float* p) { return {Floats{*p, *p, *p, *p}}; }
  static Vec fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
  void store(float* p) const { __builtin_memcpy(p, &v, sizeof v); }
  float sum() const { return (v[0] + v[1]) + (v[2] + v[3]); }
};

}  // namespace

#include "planes_inl.h"

namespace {

void correlate(const CorrelateArgs& a) {
  const int64_t end = (a.rows - 1) * a.pitch + a.cols;
  int64_t m0 = 0;
  correlate_rows<4, 2>(a, m0, 2, end);
  correlate_rows<1, 8>(a, m0, 1, end);
}

void dot(const DotArgs& a) { a.m == 1 ? dot_all<1, 6>(a) : dot_all<3, 3>(a); }

}  // namespace

namespace lasfast {
const PlaneKernels generic_plane_kernels = {3, correlate, dot};
}
