// Neighbouring values that a thread has as floats: as many as 16 bytes of memory hold, or fewer.
#pragma once

#include "device.cuh"

namespace lasfast {

template <int n>
struct Values {
  float v[n];
};

LASFAST_DEVICE Values<4> unpack_values(const device::Bits16& bits, float) {
  Values<4> x;
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) x.v[i] = device::float_of(bits.word[i]);
  return x;
}
// The two bf16 of a word.
LASFAST_DEVICE Values<2> unpack_pair(uint32_t bits) {
  return {{device::float_of(bits << 16), device::float_of(bits & 0xffff0000u)}};
}
LASFAST_DEVICE Values<8> unpack_values(const device::Bits16& bits, device::bfloat16) {
  Values<8> x;
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) {
    const Values<2> pair = unpack_pair(bits.word[i]);
    x.v[2 * i] = pair.v[0];
    x.v[2 * i + 1] = pair.v[1];
  }
  return x;
}
LASFAST_DEVICE device::Bits16 pack_values(const Values<4>& x) {
  device::Bits16 bits;
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) bits.word[i] = device::bits_of(x.v[i]);
  return bits;
}
LASFAST_DEVICE device::Bits16 pack_values(const Values<8>& x) {
  device::Bits16 bits;
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) bits.word[i] = device::pack_bf16(x.v[2 * i], x.v[2 * i + 1]);
  return bits;
}

// Load and store n values: one, or as many as 16 bytes hold, to which the address is aligned then. While a
// kernel loads from memory, nothing writes to it.
template <int n, typename T>
LASFAST_DEVICE Values<n> load_values(const T* from) {
  if constexpr (n == 1)
    return {{device::to_float(*from)}};
  else
    return unpack_values(device::load16(from), T{});
}
template <int n, typename T>
LASFAST_DEVICE void store_values(T* to, const Values<n>& x) {
  if constexpr (n == 1)
    *to = device::from_float<T>(x.v[0]);
  else
    device::store16(to, pack_values(x));
}

// Load and store the first `count` of n values one by one. The others become zero, and stay as they are in
// memory.
template <int n, typename T>
LASFAST_DEVICE Values<n> load_first(const T* from, int count) {
  Values<n> x;
  LASFAST_UNROLL
  for (int i = 0; i < n; ++i) x.v[i] = i < count ? device::to_float(from[i]) : 0.f;
  return x;
}
template <int n, typename T>
LASFAST_DEVICE void store_first(T* to, const Values<n>& x, int count) {
  LASFAST_UNROLL
  for (int i = 0; i < n; ++i)
    if (i < count) to[i] = device::from_float<T>(x.v[i]);
}

}  // namespace lasfast
