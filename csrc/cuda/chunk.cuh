// Eight neighbouring channels of a value, as a thread has them in fp32. Addresses are aligned to 16 bytes.
#pragma once

#include "device.cuh"
#include "schedule_problem.h"
#include "values.cuh"

namespace lasfast {

using Chunk = Values<chunk>;

LASFAST_DEVICE Chunk unpack(const device::Bits16& bits) { return unpack_values(bits, device::bfloat16{}); }
LASFAST_DEVICE Chunk unpack(const device::Bits16 (&halves)[2]) {
  Chunk x;
  LASFAST_UNROLL
  for (int i = 0; i < chunk; ++i) x.v[i] = device::float_of(halves[i / 4].word[i % 4]);
  return x;
}

LASFAST_DEVICE Chunk load_chunk(const device::bfloat16* from) { return load_values<chunk>(from); }
LASFAST_DEVICE Chunk load_chunk(const float* from) {
  const device::Bits16 halves[2] = {device::load16(from), device::load16(from + 4)};
  return unpack(halves);
}

LASFAST_DEVICE void store_chunk(device::bfloat16* to, const Chunk& x) { store_values(to, x); }
LASFAST_DEVICE void store_chunk(float* to, const Chunk& x) {
  LASFAST_UNROLL
  for (int half = 0; half < 2; ++half) {
    Values<4> values;
    LASFAST_UNROLL
    for (int i = 0; i < 4; ++i) values.v[i] = x.v[4 * half + i];
    store_values(to + 4 * half, values);
  }
}

}  // namespace lasfast
