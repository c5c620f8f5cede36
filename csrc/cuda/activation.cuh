// The activations of schedule.h and their gradients, on a thread's values.
#pragma once

#include "device.cuh"
#include "lasfast/activation.h"

namespace lasfast {

// Comparisons are so that NaN comes through, as in PyTorch.
LASFAST_DEVICE float clamp(float v, float high) { return v < 0.f ? 0.f : v > high ? high : v; }

template <int n>
LASFAST_DEVICE void activate(float (&x)[n], Activation activation) {
  if (activation == Activation::none) return;
  if (activation <= Activation::relu6) {
    const float high = activation == Activation::relu6 ? 6.f : device::infinity();
    LASFAST_UNROLL
    for (int i = 0; i < n; ++i) x[i] = clamp(x[i], high);
    return;
  }
  // A gate, hard or not, which the swishes multiply the value by.
  const bool hard = activation == Activation::hardswish || activation == Activation::hardsigmoid;
  const bool times = activation <= Activation::swish;
  LASFAST_UNROLL
  for (int i = 0; i < n; ++i) {
    const float gate =
        hard ? clamp(x[i] + 3.f, 6.f) * (1.f / 6.f) : device::reciprocal(1.f + device::exp(-x[i]));
    x[i] = times ? x[i] * gate : gate;
  }
}

// gradient *= activation'(x); where that has a kink, torch's choice.
template <int n>
LASFAST_DEVICE void activate_gradient(float (&gradient)[n], const float (&x)[n], Activation activation) {
  if (activation == Activation::none) return;
  if (activation <= Activation::relu6) {  // a clamp passes what lies strictly between its bounds
    const bool bounded = activation == Activation::relu6;
    LASFAST_UNROLL
    for (int i = 0; i < n; ++i)
      if (x[i] <= 0.f || (bounded && x[i] >= 6.f)) gradient[i] = 0.f;
    return;
  }
  if (activation == Activation::hardswish) {
    LASFAST_UNROLL
    for (int i = 0; i < n; ++i)
      gradient[i] = x[i] <= -3.f  ? 0.f
                    : x[i] >= 3.f ? gradient[i]
                                  : gradient[i] * (x[i] * (1.f / 3.f) + 0.5f);
    return;
  }
  if (activation == Activation::hardsigmoid) {
    LASFAST_UNROLL
    for (int i = 0; i < n; ++i) gradient[i] = x[i] <= -3.f || x[i] >= 3.f ? 0.f : gradient[i] * (1.f / 6.f);
    return;
  }
  LASFAST_UNROLL
  for (int i = 0; i < n; ++i) {
    const float gate = device::reciprocal(1.f + device::exp(-x[i])), rest = 1.f - gate;
    gradient[i] *= activation == Activation::swish ? gate * (x[i] * rest + 1.f) : gate * rest;
  }
}

}  // namespace lasfast
