// How the resident kernel keeps values in shared memory.
//
// A tensor core reads 16 bytes of eight positions at a time, and a position often takes a multiple of 32, 64
// or 128 bytes: all eight would lie in the same few banks. So the pieces of 16 bytes in each line of 128
// bytes are permuted, by the line's number. The pitch alone decides how many of them take part: as many as it
// takes for the pieces of neighbouring positions to differ. Values begin at multiples of a line.
#pragma once

#include "schedule_values.cuh"

namespace lasfast {

constexpr int line_bytes = 128;

// The beginning of a block's shared memory. Behind it lie the arena, and then the ring of weights, or those
// of a depthwise convolution.
struct alignas(line_bytes) ResidentShared {
  Problem problem[2];  // the one at hand and the next
  alignas(16) char zeros[16];
  PassArgs pass;  // for the images at hand
};
constexpr int arena_begin = sizeof(ResidentShared);

// Stands for T where values of type T lie in shared memory.
template <typename T>
struct Resident {};

// The permutation for a value whose positions take `pitch_bytes`: byte `at` lies at swizzle(at).
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

template <typename T>
struct Place<Resident<T>> {
  int value, first, pitch;  // in bytes; `value` is from the beginning of shared memory
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

  // A chunk, a pair of channels or one channel.
  template <int n = chunk>
  LASFAST_DEVICE Values<n> load(int64_t position) const {
    Values<n> x;
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
      device::store16(at(position, 0), pack_half(x, 0));
      device::store16(at(position, 4), pack_half(x, 1));
    }
  }
  LASFAST_DEVICE void store(int64_t position, const Values<2>& x) const {
    if constexpr (sizeof(T) == 2) {
      *reinterpret_cast<uint32_t*>(at(position, 0)) = device::pack_bf16(x.v[0], x.v[1]);
    } else {
      auto* const to = reinterpret_cast<float*>(at(position, 0));
      to[0] = x.v[0];
      to[1] = x.v[1];
    }
  }
  LASFAST_DEVICE void store(int64_t position, const Values<1>& x) const {
    *reinterpret_cast<T*>(at(position, 0)) = device::from_float<T>(x.v[0]);
  }

 private:
  LASFAST_DEVICE void load(int64_t position, Chunk& x) const {
    if constexpr (sizeof(T) == 2)
      x = unpack_values(device::load16_shared(at(position, 0)), T{});
    else
      x = unpack_halves(device::load16_shared(at(position, 0)), device::load16_shared(at(position, 4)));
  }
  LASFAST_DEVICE void load(int64_t position, Values<2>& x) const {
    if constexpr (sizeof(T) == 2) {
      x = unpack_pair(*reinterpret_cast<const uint32_t*>(at(position, 0)));
    } else {
      const auto* const from = reinterpret_cast<const float*>(at(position, 0));
      x = {{from[0], from[1]}};
    }
  }
  LASFAST_DEVICE void load(int64_t position, Values<1>& x) const { x = {{load_one(position)}}; }
};

}  // namespace lasfast
