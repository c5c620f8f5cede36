// Eight neighbouring channels of a value, as a thread has them in fp32. Addresses are aligned to 16 bytes.
#pragma once

#include "device.cuh"
#include "schedule_problem.h"

namespace lasfast {

struct Chunk {
  float v[chunk];
};

LASFAST_DEVICE Chunk unpack(const device::Bits16 (&halves)[2]) {
  Chunk x;
  LASFAST_UNROLL
  for (int i = 0; i < chunk; ++i) x.v[i] = device::float_of(halves[i / 4].word[i % 4]);
  return x;
}
LASFAST_DEVICE Chunk load_chunk(const float* from) {
  const device::Bits16 halves[2] = {device::load16(from), device::load16(from + 4)};
  return unpack(halves);
}
LASFAST_DEVICE Chunk unpack(const device::Bits16& bits) {
  Chunk x;
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) {
    x.v[2 * i] = device::float_of(bits.word[i] << 16);
    x.v[2 * i + 1] = device::float_of(bits.word[i] & 0xffff0000u);
  }
  return x;
}
LASFAST_DEVICE Chunk load_chunk(const device::bfloat16* from) { return unpack(device::load16(from)); }

LASFAST_DEVICE device::Bits16 pack(const Chunk& x) {
  device::Bits16 bits;
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) bits.word[i] = device::pack_bf16(x.v[2 * i], x.v[2 * i + 1]);
  return bits;
}
LASFAST_DEVICE void store_chunk(float* to, const Chunk& x) {
  LASFAST_UNROLL
  for (int half = 0; half < 2; ++half) {
    device::Bits16 bits;
    LASFAST_UNROLL
    for (int i = 0; i < 4; ++i) bits.word[i] = device::bits_of(x.v[4 * half + i]);
    device::store16(to + 4 * half, bits);
  }
}
LASFAST_DEVICE void store_chunk(device::bfloat16* to, const Chunk& x) { device::store16(to, pack(x)); }

}  // namespace lasfast
