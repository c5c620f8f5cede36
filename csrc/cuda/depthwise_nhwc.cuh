// The arguments and the launches of the kernels behind depthwise_nhwc.h, and how these read and write
// channels.
#pragma once

#include "block.h"
#include "lasfast/depthwise_nhwc.h"
#include "nhwc.cuh"

namespace lasfast {

constexpr int most_chunks = 8;  // side by side in a tile

// Chunks of channels side by side in a tile. All tiles have about as many, so that few threads idle.
inline int chunks_across(int64_t channels) {
  const int64_t chunks = divide_up(channels, chunk);
  return static_cast<int>(divide_up(chunks, divide_up(chunks, most_chunks)));
}

// ---- depthwise_nhwc_windows.cu: forward pass and gradient of the input

// Says how positions and channels are cut into tiles.
struct DepthwiseTiling {
  static constexpr int run = 4;  // neighbouring positions that a thread computes
  int across, columns, rows;     // of a tile: chunks, channels, positions
  int64_t row_tiles, column_tiles;

  DepthwiseTiling(const DepthwiseNhwcParams& p, Pass pass);
  int64_t partial_bytes(const DepthwiseNhwcParams& p) const {
    return row_tiles * 2 * p.channels * int64_t{sizeof(float)};
  }
};
// `partial`: [row tiles][mean, squared deviations][channels] of the output, or null.
int launch_depthwise(const DepthwiseNhwcParams& p, Pass pass, const void* input, const void* weight,
                     device::Stream stream, void* output, float* partial);

// ---- depthwise_nhwc_grad_weight.cu

// Says how taps and channels are cut into tiles, and positions into parts.
struct DepthwiseGradWeightTiling {
  int width;                // taps of a kernel row that a thread sums: all of them, or one
  int across, groups;       // chunks in a tile; tap rows, or taps
  int block_groups, lanes;  // groups of a block; threads that share the positions of one
  int64_t column_tiles, group_tiles;
  int64_t parts, each;  // parts that the positions are cut into; positions of each

  explicit DepthwiseGradWeightTiling(const DepthwiseNhwcParams& p);
  int64_t partial_bytes(const DepthwiseNhwcParams& p) const {
    return parts * p.kernel * p.kernel * p.channels * int64_t{sizeof(float)};
  }
};
// Overwrites partial [parts][kernel, kernel][channels].
int launch_depthwise_grad_weight(const DepthwiseNhwcParams& p, const DepthwiseGradWeightTiling& tiling,
                                 const void* grad_output, const void* input, device::Stream stream,
                                 float* partial);

// ---- eight channels at a time, by accesses of 16, 4 or 2 bytes: as many as all vectors of channels allow

template <typename T>
int access_bytes(int64_t channels, const void* values, const void* other) {
  const auto fits = [&](int64_t count, int64_t bytes) {
    return channels % count == 0 && reinterpret_cast<uintptr_t>(values) % bytes == 0 &&
           reinterpret_cast<uintptr_t>(other) % bytes == 0;
  };
  if (fits(chunk, 16)) return 16;
  return sizeof(T) == 4 || fits(2, 4) ? 4 : 2;
}

// The first `channels` (at least one) of eight channels as they are in memory, and zeros behind them. Several
// of these are loaded before the first is waited for.
template <typename T, int bytes>
struct Raw {
  device::Bits16 piece[sizeof(T) / 2] = {};

  LASFAST_DEVICE void load(const T* from, int channels) {
    constexpr int each = 4 / sizeof(T);  // values in a word
    LASFAST_UNROLL
    for (int i = 0; i < chunk / each; ++i) {
      const int c = i * each;
      if constexpr (bytes == 16) {
        if (i % 4 == 0) piece[i / 4] = device::load16(from + c);
      } else if constexpr (bytes == 4) {
        piece[i / 4].word[i % 4] = c < channels ? device::load4(from + c) : 0;
      } else {
        const float first = c < channels ? device::to_float(from[c]) : 0.f;
        const float second = c + 1 < channels ? device::to_float(from[c + 1]) : 0.f;
        piece[i / 4].word[i % 4] = device::pack_bf16(first, second);
      }
    }
  }
  LASFAST_DEVICE Chunk values() const {
    if constexpr (sizeof(T) == 2)
      return unpack_values(piece[0], T{});
    else
      return unpack_halves(piece[0], piece[1]);
  }
};

template <int bytes, typename T>
LASFAST_DEVICE void store_channels(T* to, const Chunk& x, int channels) {
  if constexpr (bytes == 16) {
    store_chunk(to, x);
  } else if constexpr (bytes == 4 && sizeof(T) == 2) {
    const device::Bits16 bits = pack_values(x);
    LASFAST_UNROLL
    for (int i = 0; i < 4; ++i)
      if (2 * i < channels) device::store4(to + 2 * i, bits.word[i]);
  } else {
    store_first(to, x, channels);
  }
}

}  // namespace lasfast
