// Packs weights for pairs and tiles (see schedule_pack.h), quickly enough to do so at each call.
#include "../conv2d_nhwc_kernels.h"
#include "target.h"
#include "transpose_avx512.h"

namespace {

using lasfast::Bf16;
using lasfast::PackPairs;

constexpr int tile = 16, tile_depth = 32;

LASFAST_INLINE __mmask16 first_of(int64_t n) {
  return n < 1 ? 0 : n < tile ? static_cast<__mmask16>((1u << n) - 1u) : static_cast<__mmask16>(~0u);
}

// The first n of sixteen weights that lie `step` apart, rounded; zeros for the others.
LASFAST_INLINE __m256i load_weights(const float* p, int64_t step, int64_t n) {
  const __mmask16 mask = first_of(n);
  if (step == 1) return Vec{_mm512_maskz_loadu_ps(mask, p)}.rounded();
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i index = _mm512_mullo_epi32(lane, _mm512_set1_epi32(static_cast<int>(step)));
  return Vec{_mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, p, 4)}.rounded();
}
LASFAST_INLINE __m256i load_weights(const Bf16* p, int64_t step, int64_t n) {
  if (step == 1) return _mm256_maskz_loadu_epi16(first_of(n), p);
  alignas(32) Bf16 some[tile] = {};
  for (int64_t i = 0; i < at_most(n, tile); ++i) some[i] = p[i * step];
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(some));
}

// Packs the first `pairs` pairs of 32 input channels, of which there are n, by 16 output channels.
template <class W>
LASFAST_INLINE void pack_piece(const PackPairs& a, const W* weight, int64_t n, int64_t pairs, Bf16* packed) {
  __m512i rows[tile];
  if (a.out_step == 1) {
    for (int64_t k = 0; k < tile; ++k) {
      const W* p = weight + 2 * k * a.in_step;
      const __m256i even = load_weights(p, 1, 2 * k < n ? a.outs : 0);
      const __m256i odd = load_weights(p + a.in_step, 1, 2 * k + 1 < n ? a.outs : 0);
      rows[k] =
          _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
    }
  } else {
    for (int64_t i = 0; i < tile; ++i) {
      const W* p = weight + i * a.out_step;
      const __m256i low = load_weights(p, a.in_step, i < a.outs ? n : 0);
      const __m256i high = load_weights(p + tile * a.in_step, a.in_step, i < a.outs ? n - tile : 0);
      rows[i] = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }
    transpose(rows);
  }
  for (int64_t k = 0; k < tile; ++k)
    if (k < pairs) _mm512_store_si512(packed + k * a.pair_step, rows[k]);
}

template <class W>
void pack(const PackPairs& a) {
  const W* weight = static_cast<const W*>(a.weight);
  for (int64_t c = 0; c < 2 * a.pairs; c += tile_depth) {
    const int64_t pairs = at_most(a.pairs - c / 2, tile);
    for (int64_t t = 0; t < a.taps; ++t) {
      Bf16* const packed = a.packed + c / tile_depth * a.piece_step + t * a.tap_step;
      if (a.tap_offset[t] >= 0) {
        pack_piece(a, weight + c * a.in_step + a.tap_offset[t], a.channels - c, pairs, packed);
        continue;
      }
      for (int64_t k = 0; k < pairs; ++k)
        _mm512_store_si512(packed + k * a.pair_step, _mm512_setzero_si512());
    }
  }
}

}  // namespace

namespace lasfast {
void LASFAST_TABLE(pack_pairs)(const PackPairs& a) { a.bf16 ? pack<Bf16>(a) : pack<float>(a); }
}  // namespace lasfast
