// What the kernels of depthwise and of grouped convolutions share. Their passes are correlations: output j of
// an axis sums taps t = 0 .. taps - 1 of inputs first + j * step + t.
#pragma once

#include "activations_inl.h"
#include "target.h"

namespace {

inline bool inside(int64_t position, int64_t size) {
  return static_cast<uint64_t>(position) < static_cast<uint64_t>(size);
}

// The outputs of one phase along one axis, and where their taps begin.
struct Axis {
  int64_t taps, first, step;           // in the input
  int64_t count, out_first, out_step;  // in the output
};

template <class Args>
Axis forward_axis(const Args& a, int64_t begin, int64_t end) {
  return {a.kernel, begin * a.stride - a.padding, a.stride, end - begin, begin, 1};
}

// Position m * stride + phase - padding of the input has taps phase, phase + stride, ...,
// from outputs m, m - 1, ...
template <class Args>
Axis gradient_axis(const Args& a, int64_t phase, int64_t begin, int64_t end) {
  const int64_t s = a.stride, shift = a.padding - phase + s - 1;
  const int64_t taps = phase < a.kernel ? (a.kernel - phase + s - 1) / s : 0;
  const int64_t m = (begin + shift) / s;
  return {taps, m - taps + 1, 1, (end + shift) / s - m, m * s + phase - a.padding, s};
}

// Mean and deviations of a stream of values, from sums of their distance from the first, per channel.
struct Statistics {
  Vec shift, sum, square;
  int64_t count;

  // `values` of a tile are summed among themselves first, which leaves less to rounding.
  template <int P>
  LASFAST_INLINE void add(const Vec (&value)[P], int64_t values) {
    if (count == 0) {
      // An Inf or NaN would spoil all later distances: they are taken from 0 then.
      shift = Vec::select_above(Vec::sub(value[0], value[0]), -1.f, value[0], Vec::zero());
      sum = square = Vec::zero();
    }
    Vec s = Vec::zero(), q = Vec::zero();
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i) {
      if (i >= values) break;
      const Vec d = Vec::sub(value[i], shift);
      s = Vec::add(s, d);
      q = Vec::fma(d, d, q);
    }
    sum = Vec::add(sum, s);
    square = Vec::add(square, q);
    count += values;
  }
  void store(float* mean, float* squares) const {
    const Vec average = Vec::mul(sum, Vec::set(1.f / static_cast<float>(count)));
    Vec::add(shift, average).store(mean);
    const Vec rest = Vec::sub(square, Vec::mul(sum, average));
    Vec::max(Vec::zero(), rest).store(squares);
  }
};

// What follows the sums in prediction.
struct Finish {
  Vec scale, shift;
  Activate activate;

  LASFAST_INLINE Vec operator()(Vec sum) const { return activate(Vec::fma(sum, scale, shift)); }
};

}  // namespace
