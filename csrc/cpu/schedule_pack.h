// How weights of convolutions in cells are packed, for any source of weights.
//
//   vectors  [blocks of 2 W output channels, a last one of W where that is enough][taps][in][block] fp32
//   pairs    the same, of [pairs of in] and [block][2] bf16
//   Winograd [positions of a transformed tile][blocks as of vectors][in][block] fp32, transformed
//   tiles    [output channels / 16][steps][16 pairs][16 output channels][2] bf16: what a
//            step's tile of inputs is multiplied by
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "schedule_layout.h"

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

// A weight's transform along one axis, for tiles of `side` outputs (see winograd_near): the values of the
// polynomial that has it for coefficients, over what makes the convolution's a sum of products.
inline void winograd_axis(int64_t side, double g0, double g1, double g2, double t[6]) {
  constexpr double a = winograd_near, b = winograd_far, aa = a * a, bb = b * b;
  if (side == 2) {
    const double even = (g0 + g2) / 2, odd = g1 / 2;
    t[0] = g0, t[1] = even + odd, t[2] = even - odd, t[3] = g2;
    return;
  }
  constexpr double near = 1 / (2 * aa * (aa - bb)), far = 1 / (2 * bb * (bb - aa));
  const double even_a = near * (g0 + aa * g2), odd_a = near * a * g1;
  const double even_b = far * (g0 + bb * g2), odd_b = far * b * g1;
  t[0] = g0 / (aa * bb), t[1] = even_a + odd_a, t[2] = even_a - odd_a;
  t[3] = even_b + odd_b, t[4] = even_b - odd_b, t[5] = g2;
}

// Packs the same of a 3x3 convolution for Winograd's algorithm.
template <class F>
void pack_winograd(int64_t side, int64_t in_channels, int64_t out_channels, int64_t width, F weight,
                   float* packed) {
  const int64_t size = side + 2, plane = in_channels * round_to(out_channels, width);
  for (int64_t o = 0; o < out_channels;) {
    const int64_t block = out_channels - o <= width ? width : 2 * width;
    for (int64_t c = 0; c < in_channels; ++c)
      for (int64_t i = o; i < o + block; ++i, ++packed) {
        double rows[3][6], columns[6];
        for (int64_t s = 0; s < 3; ++s) {
          const auto tap = [&](int64_t r) { return i < out_channels ? double{weight(i, r, s, c)} : 0.0; };
          winograd_axis(side, tap(0), tap(1), tap(2), rows[s]);
        }
        for (int64_t r = 0; r < size; ++r) {
          winograd_axis(side, rows[0][r], rows[1][r], rows[2][r], columns);
          for (int64_t s = 0; s < size; ++s) packed[(r * size + s) * plane] = static_cast<float>(columns[s]);
        }
      }
    o += block;
  }
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
