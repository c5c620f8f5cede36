// What the vector types of isa/vec_*.h share: isa/target.h includes that of an instruction set, which defines
// `struct Vec`, some floats.
//
//   Vec::width, zero(), set(x), broadcast(p)  (of *p),
//   load(p), load_partial(p, n), store(p), store_partial(p, n)  (float and Bf16),
//   fma(a, b, c), add, sub, mul, div(a, b), max(a, b), min(a, b)  (NaN where b is), sum(),
//   nan_or(a, b)  (a where a is NaN, else b), select_above(a, x, b, c)  (b where a > x, else c),
//   zero_outside(a, x, low, high)  (0 where x <= low or x >= high, else a: a bound that is NaN is none),
//   add_exponent(a, t)  (adds the integer in the low bits of t to the exponent of a),
//   gather(p, indices)  (p[indices[i]]), permute(a, lanes(indices))  (a[indices[i]]).
#pragma once

#include <cstdint>

#define LASFAST_INLINE inline __attribute__((always_inline))

namespace lasfast {

struct Bf16 {
  uint16_t bits;
};

}  // namespace lasfast
