// How the cells that tiles read are filled (see schedule_kernels.h); part of schedule_kernels.cpp.

namespace {

constexpr int tile_depth = 32;
constexpr int64_t prefetched = 1024;  // values ahead, at least: pieces of a row leave gaps

// Applies norm and activation to 32 stored values: to even and odd ones apart, so that each becomes fp32 by a
// shift or a mask.
struct TileTransform {
  Vec scale[2], shift[2];
  Activate activate;
  __m512i order;

  // Value i is of channel c + i; those from the n-th on become act(0).
  TileTransform(const Affine& affine, int64_t c, int n) : activate(affine.activation) {
    const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
    order = _mm512_or_si512(_mm512_slli_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32(16)), 16), lane);
    for (int odd = 0; odd < 2; ++odd) {
      scale[odd] = Vec::set(1.f), shift[odd] = Vec::zero();
      if (!affine.scale) continue;
      const __m512i channel = _mm512_add_epi32(_mm512_slli_epi32(lane, 1), _mm512_set1_epi32(odd));
      scale[odd].v = pick(affine.scale + c, n, channel);
      shift[odd].v = pick(affine.shift + c, n, channel);
    }
  }

  static __m512 pick(const float* p, int n, __m512i channel) {
    const Vec low = Vec::load_partial(p, n < W ? n : W);
    return _mm512_permutex2var_ps(low.v, channel, (n > W ? Vec::load_partial(p + W, n - W) : Vec::zero()).v);
  }

  // Values that are not kept become zero.
  template <bool clamp>
  LASFAST_INLINE __m512i run(__m512i values, __mmask32 kept) const {
    const Vec even = {_mm512_castsi512_ps(_mm512_slli_epi32(values, 16))};
    const Vec odd = {_mm512_castsi512_ps(_mm512_and_si512(values, _mm512_set1_epi32(-65536)))};
    const __m512bh halves = _mm512_cvtne2ps_pbh(activate.run<clamp>(Vec::fma(odd, scale[1], shift[1])).v,
                                                activate.run<clamp>(Vec::fma(even, scale[0], shift[0])).v);
    __m512i bits;
    __builtin_memcpy(&bits, &halves, sizeof bits);
    return _mm512_maskz_permutexvar_epi16(kept, order, bits);
  }

  LASFAST_INLINE __m512i operator()(__m512i values, __mmask32 kept) const {
    return activate.clamps() ? run<true>(values, kept) : run<false>(values, kept);
  }
};

LASFAST_INLINE void zero_values(Bf16* to, int64_t count, int64_t pitch) {
  for (int64_t i = 0; i < count; ++i) _mm512_store_si512(to + i * pitch, _mm512_setzero_si512());
}

// Fills the cells of one item row by row, one piece at a time: `n` channels from c on.
class TileCells {
 public:
  explicit TileCells(const ItemArgs& a)
      : a_(a),
        copies_(!a.in.scale && a.in.activation == Activation::none),
        pitch_(a.cells.group * tile_depth),
        row_values_(cell_row(a.cells) * tile_depth) {
    for (int64_t f = 0; f < a.cells.phases; ++f) phase_[f] = Phase(a, f);
  }

  // Fills padded rows first .. last - 1 of the band of output rows from y0 on.
  void fill(const Bf16* input, int64_t images, int64_t y0, int64_t first, int64_t last, Bf16* cells) const {
    const Cells& e = a_.cells;
    if (a_.flatten) {
      fill_flattened(input, images, cells);
      return;
    }
    const int64_t image = a_.in_height * a_.in_width * a_.in_channels;
    for (int64_t r = first; r < last; ++r) {
      // Most strides are 1, and divisions take long.
      const int64_t part = a_.stride == 1 ? 0 : r % a_.stride, number = a_.stride == 1 ? r : r / a_.stride;
      if (part >= e.phases) continue;
      const int64_t y = y0 * a_.stride + r - a_.padding;
      const bool inside = y >= 0 && y < a_.in_height;
      Bf16* row = cells + (part * e.rows + number) * row_values_;
      for (int64_t k = 0; k < e.chunks; ++k, row += e.plane) {
        if (!inside || images < e.group) zero_values(row, row_values_ / tile_depth, tile_depth);
        if (!inside) continue;
        const int64_t c = k * tile_depth;
        const Bf16* from = input + y * a_.in_width * a_.in_channels + c;
        const int n = static_cast<int>(at_most(a_.in_channels - c, tile_depth));
        const int64_t columns = k == e.chunks - 1 ? e.columns : 1;
        if (columns == 2)
          fill_shared<2>(from, image, images, c, n, row);
        else if (columns == 4)
          fill_shared<4>(from, image, images, c, n, row);
        else if (columns == 8)
          fill_shared<8>(from, image, images, c, n, row);
        else if (copies_)
          copy_piece(from, image, images, n, row);
        else
          fill_piece(from, image, images, c, n, row);
      }
    }
  }

 private:
  template <class F>
  LASFAST_INLINE void for_positions(const Bf16* from, int64_t image, int64_t images, Bf16* to,
                                    F value) const {
    const int64_t step = a_.stride * a_.in_channels, pitch = pitch_;
    for (int64_t f = 0; f < a_.cells.phases; ++f, to += a_.cells.cols * pitch) {
      const Phase p = phase_[f];
      for (int64_t g = 0; g < images; ++g) {
        Bf16* into = to + g * tile_depth;
        const Bf16* first = from + g * image + p.column * a_.in_channels;
        zero_values(into, p.left, pitch);
        into += p.left * pitch;
        for (int64_t i = p.left; i < p.right; ++i, first += step, into += pitch)
          _mm512_store_si512(into, value(first));
        zero_values(into, p.steps - p.right, pitch);
      }
    }
  }

  void copy_piece(const Bf16* from, int64_t image, int64_t images, int n, Bf16* to) const {
    const __mmask32 mask = first_values(n);
    const int64_t row = a_.in_width * a_.in_channels, ahead = (prefetched + row - 1) / row * row;
    for_positions(from, image, images, to, [=](const Bf16* p) __attribute__((always_inline)) {
      __builtin_prefetch(p + ahead);
      return _mm512_maskz_loadu_epi16(mask, p);
    });
  }

  void fill_piece(const Bf16* from, int64_t image, int64_t images, int64_t c, int n, Bf16* to) const {
    const __mmask32 mask = first_values(n);
    const TileTransform in(a_.in, c, n);
    for_positions(from, image, images, to, [&](const Bf16* p) __attribute__((always_inline)) {
      return in(_mm512_maskz_loadu_epi16(mask, p), mask);
    });
  }

  // Fills cells that hold `columns` columns: each is the one before, moved on by a column.
  template <int columns>
  void fill_shared(const Bf16* from, int64_t image, int64_t images, int64_t c, int n, Bf16* to) const {
    const Cells& e = a_.cells;
    const int64_t channels = a_.in_channels, s = a_.stride, pitch = pitch_;
    const int64_t padded_cols = (a_.out_width - 1) * s + a_.kernel;
    const __mmask32 window = first_values(a_.kernel * (tile_depth / columns));
    const __mmask16 mask = Vec::first(n);
    const Transform in(a_.in, c, n);
    for (int64_t g = 0; g < images; ++g) {
      const Bf16* row = from + g * image;
      __m512i cell = _mm512_setzero_si512();
      int64_t phase = 0;
      Bf16* into = to + g * tile_depth;
      for (int64_t x = 1 - columns; x < padded_cols; ++x) {
        const int64_t column = x + columns - 1 - a_.padding;  // of the input: the one that comes in
        __m256i next = _mm256_setzero_si256();
        if (column >= 0 && column < a_.in_width) {
          next = _mm256_maskz_loadu_epi16(mask, row + column * channels);
          if (!copies_) next = in(Vec::widen(next)).rounded();
        }
        cell = _mm512_alignr_epi64(_mm512_castsi256_si512(next), cell, 8 / columns);
        if (x < 0) continue;
        if (phase < e.phases)
          _mm512_store_si512(into + phase * e.cols * pitch, _mm512_maskz_mov_epi16(window, cell));
        if (++phase == s) phase = 0, into += pitch;
      }
    }
  }

  // Fills cells that each hold all positions of an image.
  void fill_flattened(const Bf16* input, int64_t images, Bf16* cells) const {
    const Cells& e = a_.cells;
    const int64_t channels = a_.in_channels, positions = a_.in_height * a_.in_width;
    __builtin_memset(cells, 0, e.group * e.size * sizeof(Bf16));
    for (int64_t c = 0; c < channels; c += tile_depth) {
      const int n = static_cast<int>(at_most(channels - c, tile_depth));
      const TileTransform in(a_.in, c, n);
      const __mmask32 mask = first_values(n);
      for (int64_t g = 0; g < images; ++g) {
        const Bf16* from = input + g * positions * channels + c;
        Bf16* to = cells + g * e.size + c;
        for (int64_t i = 0; i < positions; ++i)
          _mm512_mask_storeu_epi16(to + i * channels, mask,
                                   in(_mm512_maskz_loadu_epi16(mask, from + i * channels), mask));
      }
    }
  }

  const ItemArgs& a_;
  const bool copies_;
  const int64_t pitch_, row_values_;
  Phase phase_[max_kernel];
};

}  // namespace
