// How weights of convolutions in cells are packed, for any source of weights.
//
//   vectors  [blocks of 2 W output channels, a last one of W where that is enough][taps][in][block] fp32
//   pairs    the same, of [pairs of in] and [block][2] bf16
//   Winograd [positions of a transformed tile][as of vectors or of pairs, without taps], transformed
//   tiles    [output channels / 16][steps][16 pairs][16 output channels][2] bf16: what a
//            step's tile of inputs is multiplied by
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "schedule_layout.h"
#include "threads.h"
#include "winograd_points.h"

namespace lasfast {

constexpr int64_t tile_values = tile_depth * tile_cells;  // of weights

inline uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline int64_t tile_steps(const CellConvolution& conv) {
  return conv.kernel * (conv.kernel * (conv.cells.chunks - 1) + conv.row_taps());
}

// What a step's value number k is multiplied by: a weight (channel -1: none), times a factor.
struct TileWeight {
  int64_t row, column, channel;
  float factor;
};

inline TileWeight tile_weight(const CellConvolution& conv, int64_t step, int64_t k) {
  const int64_t kernel = conv.kernel, taps = kernel * kernel;
  const int64_t piece = std::min(step / taps, conv.cells.chunks - 1);
  const bool last = piece == conv.cells.chunks - 1;
  const int64_t columns = last ? conv.cells.columns : 1, depth = tile_depth / columns;
  const int64_t row_taps = last ? conv.row_taps() : kernel, tap = step - piece * taps;
  // The last tap of a row may begin before the one ahead of it ends. What both hold counts half in each,
  // which is exact; a zero weight there would turn an infinite input beyond the window into NaN.
  const auto first = [&](int64_t i) { return std::max<int64_t>(0, std::min(i * columns, kernel - columns)); };
  const int64_t i = tap % row_taps, column = first(i) + k / depth;
  const int64_t channel = piece * tile_depth + k % depth;
  if (column >= kernel || channel >= conv.channels) return {0, 0, -1, 1.f};
  const bool twice =
      (i + 1 < row_taps && column >= first(i + 1)) || (i > 0 && column < first(i - 1) + columns);
  return {tap / row_taps, column, channel, twice ? 0.5f : 1.f};
}

// Packs weight(out, row, column, channel) -> float, which is asked for existing channels only, for vectors of
// `width` floats.
template <class F>
void pack_vectors(const CellConvolution& conv, int64_t out_channels, int64_t width, F weight, float* packed) {
  for (int64_t o = 0; o < out_channels;) {
    const int64_t block = conv.depthwise || out_channels - o <= width ? width : 2 * width;
    for (int64_t r = 0; r < conv.kernel; ++r)
      for (int64_t s = 0; s < conv.kernel; ++s)
        for (int64_t c = 0; c < (conv.depthwise ? 1 : conv.channels); ++c)
          for (int64_t i = o; i < o + block; ++i) *packed++ = i < out_channels ? weight(i, r, s, c) : 0.f;
    o += block;
  }
}

// Some output channels' weights at one place, which are transformed alike.
struct WinogradLanes {
  static constexpr int64_t most = 32;  // two vectors of any instruction set
  double v[most];
};

// The transform of weights along one axis, for tiles of `side` outputs (see winograd_near): the values of the
// polynomial that has them for coefficients, over what makes the convolution a sum of products.
template <int side>
void winograd_axis(int64_t lanes, const WinogradLanes& g0, const WinogradLanes& g1, const WinogradLanes& g2,
                   WinogradLanes* t) {
  if constexpr (side == 2) {
    for (int64_t i = 0; i < lanes; ++i) {
      const double even = (g0.v[i] + g2.v[i]) / 2, odd = g1.v[i] / 2;
      t[0].v[i] = g0.v[i], t[1].v[i] = even + odd, t[2].v[i] = even - odd, t[3].v[i] = g2.v[i];
    }
  } else {
    constexpr double a = winograd_near, b = winograd_far, aa = a * a, bb = b * b;
    constexpr double zero = 1 / (aa * bb), near = 1 / (2 * aa * (aa - bb)), far = 1 / (2 * bb * (bb - aa));
    for (int64_t i = 0; i < lanes; ++i) {
      const double even_a = near * (g0.v[i] + aa * g2.v[i]), odd_a = near * a * g1.v[i];
      const double even_b = far * (g0.v[i] + bb * g2.v[i]), odd_b = far * b * g1.v[i];
      t[0].v[i] = zero * g0.v[i], t[1].v[i] = even_a + odd_a, t[2].v[i] = even_a - odd_a;
      t[3].v[i] = even_b + odd_b, t[4].v[i] = even_b - odd_b, t[5].v[i] = g2.v[i];
    }
  }
}

// The weight of a 3x3 convolution, by its first tap and how far apart in elements its axes' neighbors are.
struct WinogradWeight {
  const float* first;
  int64_t out_step, in_step, row_step, column_step;
  int64_t out_channels, in_channels;
};

// Copies `count` channels' transformed weights [count, block] to where they are packed.
inline void put_winograd(const float* from, int64_t count, int64_t block, float* packed) {
  std::memcpy(packed, from, static_cast<size_t>(count * block) * sizeof(float));
}
// The same for pairs: a channel that is missing has zeros.
inline void put_winograd(const float* from, int64_t count, int64_t block, uint16_t* packed) {
  for (int64_t c = 0; c < count; c += 2, from += 2 * block)
    for (int64_t i = 0; i < block; ++i) {
      *packed++ = to_bf16(from[i]);
      *packed++ = to_bf16(c + 1 < count ? from[block + i] : 0.f);
    }
}

// Packs the output channels o .. o + block - 1 of it for Winograd's algorithm: T is float, or uint16_t for
// pairs.
template <int side, class T>
void pack_winograd_block(const WinogradWeight& w, int64_t width, int64_t o, int64_t block, void* to) {
  constexpr int size = side + 2;
  // Channels: what goes to a position is then longer than a line of the cache.
  constexpr int64_t together = 8;
  const int64_t in = round_to(w.in_channels, sizeof(float) / sizeof(T));
  const int64_t plane = in * round_to(w.out_channels, width);
  const int64_t outs = std::min(block, w.out_channels - o);
  WinogradLanes taps[3][3] = {}, rows[3][size], both[size];
  float some[size * size][together * WinogradLanes::most];
  T* packed = static_cast<T*>(to) + in * o;
  for (int64_t first = 0; first < w.in_channels; first += together, packed += together * block) {
    const int64_t count = std::min(together, w.in_channels - first);
    for (int64_t c = 0; c < count; ++c) {
      const float* from = w.first + o * w.out_step + (first + c) * w.in_step;
      for (int64_t i = 0; i < outs; ++i, from += w.out_step)
        for (int64_t r = 0; r < 3; ++r)
          for (int64_t s = 0; s < 3; ++s) taps[r][s].v[i] = from[r * w.row_step + s * w.column_step];
      for (int64_t s = 0; s < 3; ++s) winograd_axis<side>(block, taps[0][s], taps[1][s], taps[2][s], rows[s]);
      for (int64_t r = 0; r < size; ++r) {
        winograd_axis<side>(block, rows[0][r], rows[1][r], rows[2][r], both);
        for (int64_t s = 0; s < size; ++s)
          for (int64_t i = 0; i < block; ++i)
            some[r * size + s][c * block + i] = static_cast<float>(both[s].v[i]);
      }
    }
    for (int64_t t = 0; t < size * size; ++t) put_winograd(some[t], count, block, packed + t * plane);
  }
}

// Packs all of it, for vectors of `width` floats, on so many threads.
inline void pack_winograd(const WinogradWeight& w, int64_t side, bool pairs, int64_t width, int threads,
                          void* packed) {
  const auto pack = side == 4 ? pack_winograd_block<4, float>
                    : pairs   ? pack_winograd_block<2, uint16_t>
                              : pack_winograd_block<2, float>;
  const double ns = weight_ns * 9 * w.in_channels * w.out_channels;
  const int team = paying_threads(threads, divide_up(w.out_channels, 2 * width), ns);
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t o = 0; o < w.out_channels; o += 2 * width)
    pack(w, width, o, w.out_channels - o <= width ? width : 2 * width, packed);
}

// The same for pairs; the weights of a channel that is missing are zeros.
template <class F>
void pack_pairs(const CellConvolution& conv, int64_t out_channels, int64_t width, F weight,
                uint16_t* packed) {
  for (int64_t o = 0; o < out_channels;) {
    const int64_t block = out_channels - o <= width ? width : 2 * width;
    for (int64_t r = 0; r < conv.kernel; ++r)
      for (int64_t s = 0; s < conv.kernel; ++s)
        for (int64_t c = 0; c < 2 * conv.cells.size; c += 2)
          for (int64_t i = o; i < o + block; ++i)
            for (int64_t k = c; k < c + 2; ++k)
              *packed++ = to_bf16(i < out_channels && k < conv.channels ? weight(i, r, s, k) : 0.f);
    o += block;
  }
}

// Packs sixteen output channels from o on; their steps are numbered from `first` on.
template <class F>
void pack_tiles(const CellConvolution& conv, int64_t out_channels, int64_t o, int64_t first, F weight,
                uint16_t* packed) {
  const int64_t steps = tile_steps(conv);
  packed += first * tile_values;
  for (int64_t step = first; step < steps; ++step)
    for (int64_t k = 0; k < tile_depth; k += 2) {
      const TileWeight pair[2] = {tile_weight(conv, step, k), tile_weight(conv, step, k + 1)};
      for (int64_t i = o; i < o + tile_cells; ++i)
        for (const TileWeight& w : pair)
          *packed++ = i < out_channels && w.channel >= 0
                          ? to_bf16(w.factor * weight(i, w.row, w.column, w.channel))
                          : to_bf16(0.f);
    }
}

}  // namespace lasfast
