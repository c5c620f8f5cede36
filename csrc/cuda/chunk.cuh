// Chunks: eight neighbouring channels that a thread has as floats. Addresses are aligned to 16 bytes.
#pragma once

#include "block.h"
#include "device.cuh"
#include "values.cuh"

namespace lasfast {

using Chunk = Values<chunk>;

// A chunk in fp32 takes two halves of 16 bytes.
LASFAST_DEVICE Chunk unpack_halves(const device::Bits16& first, const device::Bits16& second) {
  Chunk x;
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) {
    x.v[i] = device::float_of(first.word[i]);
    x.v[4 + i] = device::float_of(second.word[i]);
  }
  return x;
}
LASFAST_DEVICE device::Bits16 pack_half(const Chunk& x, int half) {
  device::Bits16 bits;
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) bits.word[i] = device::bits_of(x.v[4 * half + i]);
  return bits;
}

LASFAST_DEVICE Chunk load_chunk(const device::bfloat16* from) { return load_values<chunk>(from); }
LASFAST_DEVICE Chunk load_chunk(const float* from) {
  return unpack_halves(device::load16(from), device::load16(from + 4));
}

LASFAST_DEVICE void store_chunk(device::bfloat16* to, const Chunk& x) { store_values(to, x); }
LASFAST_DEVICE void store_chunk(float* to, const Chunk& x) {
  device::store16(to, pack_half(x, 0));
  device::store16(to + 4, pack_half(x, 1));
}

}  // namespace lasfast
