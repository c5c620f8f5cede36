// Multiplies fp32 values and pairs of bf16 values as fast as registers allow, for isa_preferred() to time.
#include "../pair_speed_kernels.h"

#include "product_inl.h"

namespace {

constexpr int sums = 24;  // enough to hide how long one takes

// sum = step(sum) for `count` times `sums` sums. They begin differently, or the compiler would compute but
// one, and their total is the result, or it would compute none.
template <class F>
inline float repeat(int count, F step) {
  Vec sum[sums];
#pragma GCC unroll 24
  for (int i = 0; i < sums; ++i) sum[i] = Vec::set(static_cast<float>(i));
  for (int k = 0; k < count; ++k) {
#pragma GCC unroll 24
    for (int i = 0; i < sums; ++i) sum[i] = step(sum[i]);
  }
#pragma GCC unroll 24
  for (int i = 1; i < sums; ++i) sum[0] = Vec::add(sum[0], sum[i]);
  return sum[0].sum();
}

}  // namespace

namespace lasfast {

float multiply_floats(int count) {
  const Vec one = Vec::set(1.f);
  return repeat(count, [=](Vec sum) __attribute__((always_inline)) { return Vec::fma(one, one, sum); });
}

float multiply_pairs(int count) {
  PairProduct::Cell bits = 0x3f803f80;  // ones
  __asm__("" : "+r"(bits));  // GCC 12 writes a constant vector of them as what its assembler does not know
  const PairProduct ones = PairProduct::set(&bits);
  return repeat(count,
                [=](Vec sum) __attribute__((always_inline)) { return PairProduct::add(ones, ones, sum); });
}

}  // namespace lasfast
