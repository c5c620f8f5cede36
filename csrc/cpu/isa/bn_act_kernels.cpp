// The passes of bn_act_kernels.h.

#include "../bn_act_kernels.h"

#include "activations_inl.h"
#include "target.h"

namespace {

using lasfast::Bf16;
using lasfast::BnActRows;

// This many wide rows share one load of what is one value per channel. Longer rows come one by one: memory
// gives what is asked for in order almost twice as fast.
constexpr int together = 4;
constexpr int64_t longest_together = 128;
constexpr int64_t ahead = 2048;  // bytes; prefetching by the processor itself ends with each page

// Each column is some operation on one vector of `together` wide rows (or of one), n of whose values exist:
//   run<R>(a, first, c, n): values first + r * a.width, of the channels at c.
template <class Column>
void run_rows(const BnActRows& rows) {
  const BnActRows a = rows;  // a copy that stores of floats cannot have changed
  const Column column(a);
  int64_t row = 0;
  for (; row + together <= a.count && a.width <= longest_together; row += together)
    for (int64_t c = 0; c < a.width; c += W) column.template run<together>(a, row * a.width + c, c, W);
  for (; row < a.count; ++row)
    for (int64_t c = 0; c < a.width; c += W) column.template run<1>(a, row * a.width + c, c, W);
  for (int64_t c = 0; c < a.tail; c += W)
    column.template run<1>(a, row * a.width + c, c, static_cast<int>(at_most(a.tail - c, W)));
}

template <class T>
LASFAST_INLINE Vec value(const void* values, int64_t i, int n) {
  const T* from = static_cast<const T*>(values) + i;
  __builtin_prefetch(reinterpret_cast<const char*>(from) + ahead);
  return load_n(from, n);
}

// Adds two sums per channel to what is there. (Values that do not exist add zeros: see value.)
struct Sums {
  float* at;
  int64_t pitch;
  Vec first, second;

  LASFAST_INLINE Sums(const BnActRows& a, int64_t c)
      : at(a.sums + c), pitch(a.width), first(Vec::load(at)), second(Vec::load(at + pitch)) {}
  LASFAST_INLINE void add(Vec x, Vec y, Vec z) {
    first = Vec::add(first, x);
    second = Vec::fma(y, z, second);
  }
  LASFAST_INLINE void close() const {
    first.store(at);
    second.store(at + pitch);
  }
};

template <class T>
struct Statistics {
  LASFAST_INLINE explicit Statistics(const BnActRows&) {}
  template <int R>
  LASFAST_INLINE void run(const BnActRows& a, int64_t first, int64_t c, int n) const {
    const Vec mean = load_n(a.mean + c, n);
    Sums sums(a, c);
    for (int r = 0; r < R; ++r) {
      const Vec d = Vec::sub(value<T>(a.x, first + r * a.width, n), mean);
      sums.add(d, d, d);
    }
    sums.close();
  }
};

// The normalized values: x - mean, and what the activation is taken of.
template <class T, bool residual>
struct Norm {
  Vec mean, scale, bias;

  LASFAST_INLINE Norm(const BnActRows& a, int64_t c, int n)
      : mean(load_n(a.mean + c, n)), scale(load_n(a.scale + c, n)), bias(load_n(a.bias + c, n)) {}
  LASFAST_INLINE Vec deviation(const BnActRows& a, int64_t i, int n) const {
    return Vec::sub(value<T>(a.x, i, n), mean);
  }
  LASFAST_INLINE Vec operator()(const BnActRows& a, Vec d, int64_t i, int n) const {
    const Vec z = Vec::fma(d, scale, bias);
    return residual ? Vec::add(z, value<T>(a.residual, i, n)) : z;
  }
};

template <class T, bool residual, bool clamp>
struct Forward {
  Activate activate;

  LASFAST_INLINE explicit Forward(const BnActRows& a) : activate(a.activation) {}
  template <int R>
  LASFAST_INLINE void run(const BnActRows& a, int64_t first, int64_t c, int n) const {
    const Norm<T, residual> norm(a, c, n);
    for (int r = 0; r < R; ++r) {
      const int64_t i = first + r * a.width;
      const Vec z = norm(a, norm.deviation(a, i, n), i, n);
      store_n(activate.template run<clamp>(z), static_cast<T*>(a.output) + i, n);
    }
  }
};

template <class T, bool residual, bool clamp>
struct Reduce {
  ActivateGradient gradient;

  LASFAST_INLINE explicit Reduce(const BnActRows& a) : gradient(a.activation) {}
  template <int R>
  LASFAST_INLINE void run(const BnActRows& a, int64_t first, int64_t c, int n) const {
    const Norm<T, residual> norm(a, c, n);
    Sums sums(a, c);
    for (int r = 0; r < R; ++r) {
      const int64_t i = first + r * a.width;
      const Vec d = norm.deviation(a, i, n);
      const Vec dz = gradient.template run<clamp>(value<T>(a.grad, i, n), norm(a, d, i, n));
      if (residual && a.output) store_n(dz, static_cast<T*>(a.output) + i, n);
      sums.add(dz, dz, d);
    }
    sums.close();
  }
};

enum class From { dz, grad, grad_and_residual };

template <class T, From from, bool clamp, bool constant>
struct GradX {
  ActivateGradient gradient;

  LASFAST_INLINE explicit GradX(const BnActRows& a) : gradient(a.activation) {}
  template <int R>
  LASFAST_INLINE void run(const BnActRows& a, int64_t first, int64_t c, int n) const {
    const Norm<T, from == From::grad_and_residual> norm(a, c, n);
    const Vec mean = constant ? Vec::zero() : load_n(a.grad_mean + c, n);
    const Vec slope = constant ? Vec::zero() : load_n(a.grad_slope + c, n);
    for (int r = 0; r < R; ++r) {
      const int64_t i = first + r * a.width;
      const Vec d = norm.deviation(a, i, n);
      Vec dz = from == From::dz ? value<T>(a.dz, i, n)
                                : gradient.template run<clamp>(value<T>(a.grad, i, n), norm(a, d, i, n));
      if (!constant) dz = Vec::sub(Vec::sub(dz, mean), Vec::mul(d, slope));
      store_n(Vec::mul(dz, norm.scale), static_cast<T*>(a.output) + i, n);
    }
  }
};

template <class T>
void statistics(const BnActRows& a) {
  run_rows<Statistics<T>>(a);
}

template <template <class, bool, bool> class Column, class T>
void by_residual(const BnActRows& a) {
  const bool clamp = Activate(a.activation).clamps();
  if (a.residual)
    clamp ? run_rows<Column<T, true, true>>(a) : run_rows<Column<T, true, false>>(a);
  else
    clamp ? run_rows<Column<T, false, true>>(a) : run_rows<Column<T, false, false>>(a);
}

template <class T, bool constant>
void grad_x_by_source(const BnActRows& a) {
  const bool clamp = Activate(a.activation).clamps();
  if (a.dz)
    run_rows<GradX<T, From::dz, true, constant>>(a);
  else if (a.residual)
    clamp ? run_rows<GradX<T, From::grad_and_residual, true, constant>>(a)
          : run_rows<GradX<T, From::grad_and_residual, false, constant>>(a);
  else
    clamp ? run_rows<GradX<T, From::grad, true, constant>>(a)
          : run_rows<GradX<T, From::grad, false, constant>>(a);
}

template <class T>
void grad_x(const BnActRows& a) {
  a.grad_mean ? grad_x_by_source<T, false>(a) : grad_x_by_source<T, true>(a);
}

}  // namespace

namespace lasfast {
const BnActKernels LASFAST_TABLE(bn_act_kernels) = {
    W,
    {statistics<float>, statistics<Bf16>},
    {by_residual<Forward, float>, by_residual<Forward, Bf16>},
    {by_residual<Reduce, float>, by_residual<Reduce, Bf16>},
    {grad_x<float>, grad_x<Bf16>},
};
}  // namespace lasfast
