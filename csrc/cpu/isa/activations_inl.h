// The activations on vectors, with their gradients.
#pragma once

#include "lasfast/activation.h"
#include "target.h"

namespace {

using lasfast::Activation;

// e^x by a polynomial of degree 6 on [-ln 2 / 2, ln 2 / 2], relative error below 3e-7.
inline Vec exp(Vec x) {
  const Vec clamped = Vec::max(Vec::set(-87.f), Vec::min(Vec::set(88.37f), x));
  const Vec magic = Vec::set(12582912.f);  // 1.5 * 2^23: adding it rounds to an integer
  const Vec t = Vec::fma(clamped, Vec::set(1.44269504f), magic);
  const Vec n = Vec::sub(t, magic);
  const Vec r = Vec::fma(n, Vec::set(2.12194440e-4f), Vec::fma(n, Vec::set(-0.693359375f), clamped));
  Vec p = Vec::set(1.f / 720);
  const float coefficients[] = {1.f / 120, 1.f / 24, 1.f / 6, 0.5f, 1.f, 1.f};
  for (const float c : coefficients) p = Vec::fma(p, r, Vec::set(c));
  const Vec finite = Vec::add_exponent(p, t);
  return Vec::nan_or(x, Vec::select_above(x, 88.37f, Vec::set(__builtin_inff()), finite));
}

inline Vec sigmoid(Vec x) {
  return Vec::div(Vec::set(1.f), Vec::add(Vec::set(1.f), exp(Vec::sub(Vec::zero(), x))));
}

// The constants come first in max and min, so that NaN comes through.
inline Vec clamp6(Vec x) { return Vec::min(Vec::set(6.f), Vec::max(Vec::zero(), x)); }

// Applies an activation that does more than clamp.
inline Vec curve(Vec x, Activation kind) {
  switch (kind) {
    case Activation::hardswish:
      return Vec::div(Vec::mul(x, clamp6(Vec::add(x, Vec::set(3.f)))), Vec::set(6.f));
    case Activation::swish:
      return Vec::mul(x, sigmoid(x));
    case Activation::hardsigmoid:
      return Vec::div(clamp6(Vec::add(x, Vec::set(3.f))), Vec::set(6.f));
    default:
      return sigmoid(x);
  }
}

LASFAST_INLINE bool is_clamp(Activation kind) { return kind <= Activation::relu6; }

// Applies an activation: one that clamps (or none) by one expression without branches, others by curve().
struct Activate {
  Vec low, high;
  Activation kind;

  LASFAST_INLINE explicit Activate(Activation activation)
      : low(Vec::set(activation == Activation::relu || activation == Activation::relu6 ? 0.f
                                                                                       : -__builtin_inff())),
        high(Vec::set(activation == Activation::relu6 ? 6.f : __builtin_inff())),
        kind(activation) {}
  LASFAST_INLINE bool clamps() const { return is_clamp(kind); }
  template <bool clamp>
  LASFAST_INLINE Vec run(Vec v) const {
    if (!clamp) return curve(v, kind);
    return Vec::min(high, Vec::max(low, v));
  }
  LASFAST_INLINE Vec operator()(Vec v) const { return clamps() ? run<true>(v) : run<false>(v); }
};

// gradient * curve'(x); where curve has a kink, torch's choice.
inline Vec curve_gradient(Vec gradient, Vec x, Activation kind) {
  const Vec one = Vec::set(1.f), unbounded = Vec::set(__builtin_nanf(""));
  if (kind == Activation::hardswish) {
    const Vec inside = Vec::mul(gradient, Vec::fma(x, Vec::set(1.f / 3), Vec::set(0.5f)));
    constexpr float before_3 = 2.99999976f;  // at 3 itself the slope is 1
    return Vec::zero_outside(Vec::select_above(x, before_3, gradient, inside), x, Vec::set(-3.f), unbounded);
  }
  if (kind == Activation::hardsigmoid) {
    const Vec inside = Vec::zero_outside(gradient, x, Vec::set(-3.f), Vec::set(3.f));
    return Vec::mul(inside, Vec::set(1.f / 6));
  }
  const Vec s = sigmoid(x), rest = Vec::sub(one, s);
  return Vec::mul(gradient, Vec::mul(s, kind == Activation::swish ? Vec::fma(x, rest, one) : rest));
}

// Applies the gradient of an activation, likewise: a clamp passes what lies strictly between its bounds.
struct ActivateGradient {
  Vec low, high;
  Activation kind;

  LASFAST_INLINE explicit ActivateGradient(Activation activation)
      : low(Vec::set(activation == Activation::relu || activation == Activation::relu6 ? 0.f
                                                                                       : __builtin_nanf(""))),
        high(Vec::set(activation == Activation::relu6 ? 6.f : __builtin_nanf(""))),
        kind(activation) {}
  template <bool clamp>
  LASFAST_INLINE Vec run(Vec gradient, Vec x) const {
    return clamp ? Vec::zero_outside(gradient, x, low, high) : curve_gradient(gradient, x, kind);
  }
};

}  // namespace
