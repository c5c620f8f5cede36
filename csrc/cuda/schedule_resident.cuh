// Values in shared memory.
//
// A tensor core reads eight positions' 16 bytes at a time, and a position is often a multiple of 32, 64 or
// 128 bytes: all eight would lie in the same few banks. So pieces of 16 bytes are permuted within each line
// of 128 bytes, by its number: as far as makes those of neighbouring positions differ, which depends on the
// pitch alone. Values begin at multiples of a line.
#pragma once

#include "schedule_values.cuh"

namespace lasfast {

constexpr int line_bytes = 128;

// What a block's shared memory begins with. Behind it: the arena; then the ring of weights, or those of a
// depthwise convolution.
struct alignas(line_bytes) ResidentShared {
  Problem problem[2];  // the one at hand and the next
  alignas(16) char zeros[16];
  PassArgs pass;  // for the images at hand
};
constexpr int arena_begin = sizeof(ResidentShared);

// What kernels are told in place of T where the values, of type T, are in shared memory.
template <typename T>
struct Resident {};

// How the bytes of a value with positions of so many lie: those of `at` at swizzled(at).
struct Swizzle {
  int mask;

  LASFAST_DEVICE explicit Swizzle(int pitch_bytes) {
    const int pieces = pitch_bytes / 16, lowest = pieces & -pieces;
    mask = ((lowest < 8 ? lowest : 8) - 1) * 16;
  }
  LASFAST_DEVICE int operator()(int at) const {
    return at ^ (static_cast<int>(static_cast<unsigned>(at) / (line_bytes / 16)) & mask);
  }
};

struct Pair {
  float v[2];
};
struct One {
  float v[1];
};

template <typename T>
struct Place<Resident<T>> {
  int value, first, pitch;  // bytes; the value from the beginning of shared memory
  Swizzle swizzle;

  LASFAST_DEVICE Place(const PassArgs&, int64_t offset, int pitch, int c)
      : value(arena_begin + static_cast<int>(offset) * static_cast<int>(sizeof(T))),
        first(c * static_cast<int>(sizeof(T))),
        pitch(pitch * static_cast<int>(sizeof(T))),
        swizzle(this->pitch) {}
  LASFAST_DEVICE Place(const PassArgs& pass, const Term& term, int c)
      : Place(pass, term.offset, term.pitch, c) {}

  LASFAST_DEVICE char* at(int64_t position, int element) const {
    return device::shared<char>() + value +
           swizzle(static_cast<int>(position) * pitch + first + element * static_cast<int>(sizeof(T)));
  }

  template <typename X>
  LASFAST_DEVICE X load(int64_t position) const {
    X x;
    load(position, x);
    return x;
  }
  LASFAST_DEVICE float load_one(int64_t position) const {
    return device::to_float(*reinterpret_cast<const T*>(at(position, 0)));
  }
  LASFAST_DEVICE void store(int64_t position, const Chunk& x) const {
    if constexpr (sizeof(T) == 2) {
      device::store16(at(position, 0), pack_values(x));
    } else {
      LASFAST_UNROLL
      for (int half = 0; half < 2; ++half) {
        device::Bits16 bits;
        LASFAST_UNROLL
        for (int i = 0; i < 4; ++i) bits.word[i] = device::bits_of(x.v[4 * half + i]);
        device::store16(at(position, 4 * half), bits);
      }
    }
  }
  LASFAST_DEVICE void store(int64_t position, const Pair& x) const {
    if constexpr (sizeof(T) == 2) {
      *reinterpret_cast<uint32_t*>(at(position, 0)) = device::pack_bf16(x.v[0], x.v[1]);
    } else {
      auto* const to = reinterpret_cast<float*>(at(position, 0));
      to[0] = x.v[0];
      to[1] = x.v[1];
    }
  }
  LASFAST_DEVICE void store(int64_t position, const One& x) const {
    *reinterpret_cast<T*>(at(position, 0)) = device::from_float<T>(x.v[0]);
  }

 private:
  LASFAST_DEVICE void load(int64_t position, Chunk& x) const {
    if constexpr (sizeof(T) == 2) {
      x = unpack(device::load16_shared(at(position, 0)));
    } else {
      LASFAST_UNROLL
      for (int half = 0; half < 2; ++half) {
        const device::Bits16 bits = device::load16_shared(at(position, 4 * half));
        LASFAST_UNROLL
        for (int i = 0; i < 4; ++i) x.v[4 * half + i] = device::float_of(bits.word[i]);
      }
    }
  }
  LASFAST_DEVICE void load(int64_t position, Pair& x) const {
    if constexpr (sizeof(T) == 2) {
      const uint32_t bits = *reinterpret_cast<const uint32_t*>(at(position, 0));
      x = {{device::float_of(bits << 16), device::float_of(bits & 0xffff0000u)}};
    } else {
      const auto* const from = reinterpret_cast<const float*>(at(position, 0));
      x = {{from[0], from[1]}};
    }
  }
  LASFAST_DEVICE void load(int64_t position, One& x) const { x = {{load_one(position)}}; }
};

}  // namespace lasfast
