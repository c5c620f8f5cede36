// What follows op(...) on bf16 values with AVX-512 BF16 (see finish() in schedule_kernels.cpp); part of
// schedule_kernels.cpp.

namespace {

LASFAST_INLINE __mmask32 first_values(int64_t n) { return n < 32 ? (1u << n) - 1u : ~0u; }

// Some neighbouring cells of one row of outputs.
struct Strip {
  const Bf16* cells;  // where they are read from, which does not matter here
  int64_t position, cell, count;
  bool start;
};

LASFAST_INLINE void store_line(const Vec (&v)[1], float* to, const int (&n)[1]) {
  v[0].store_partial(to, n[0]);
}
LASFAST_INLINE void store_line(const Vec (&v)[1], Bf16* to, const int (&n)[1]) {
  v[0].store_partial(to, n[0]);
}
LASFAST_INLINE void store_line(const Vec (&v)[2], float* to, const int (&n)[2]) {
  v[0].store_partial(to, n[0]);
  v[1].store_partial(to + W, n[1]);
}
LASFAST_INLINE void store_line(const Vec (&v)[2], Bf16* to, const int (&n)[2]) {
  const __m512bh halves = _mm512_cvtne2ps_pbh(v[1].v, v[0].v);
  __m512i bits;
  __builtin_memcpy(&bits, &halves, sizeof bits);
  _mm512_mask_storeu_epi16(to, first_values(n[0] + n[1]), bits);
}

// Prefetches the line behind one that was stored: positions lie too far apart for the processor to foresee
// that their next channels will be stored.
LASFAST_INLINE void prefetch_line(void* to) { __builtin_prefetch(static_cast<char*>(to) + 64, 1); }

// finish() for the common cases, which are the whole of some networks: at most ReLU or ReLU6, and values that
// are added as they are. A vector takes few instructions there, and two share a store where they lie next to
// each other in the output. (Tiles and vectors draw on the same power, so what the one does not do speeds up
// the other.) Sums of cells are `pitch` floats apart, those of vectors of channels `apart`.
template <class U, int64_t pitch, int64_t apart>
class LineFinish {
 public:
  explicit LineFinish(const ItemArgs& a)
      : common_(is_clamp(a.out.activation) &&
                (!a.other || (!a.with.scale && a.with.activation == Activation::none))),
        one_vector_(a.out_channels == W && a.cells.group == 1 && (!a.other || a.other_channels == W)),
        group_(a.cells.group),
        channels_(a.out_channels),
        image_(a.out_height * a.out_width) {}

  // Finishes the sums of a strip, of one or two vectors of output channels from c on. `a` is of the strip's
  // group of images.
  void run(const ItemArgs& a, const float* sums, const Strip& strip, int64_t c, int vectors) const {
    if (!common_)
      for (int i = 0; i < vectors; ++i)
        finish<Bf16, U>(a, sums + i * apart, pitch, strip.position, strip.cell, strip.count, c + i * W,
                        strip.start);
    else if (vectors == 2)
      lines<2, 1>(a, sums, strip, c);
    else if (one_vector_ && strip.count % 2 == 0)
      lines<2, 2>(a, sums, strip, c);
    else
      lines<1, 1>(a, sums, strip, c);
  }

  // Prefetches the first channels of strips after this one.
  void prefetch(const ItemArgs& a, const Strip& strip) const {
    if (group_ > 1) return;
    const U* to = static_cast<const U*>(a.output) + (strip.position + strip.cell + 2 * W) * channels_;
    for (int i = 0; i < 4 * W; ++i, to += channels_) __builtin_prefetch(to, 1);
  }

 private:
  // Finishes a strip line by line. A line of `vectors` vectors of output is of that many vectors of channels,
  // or of that many cells.
  template <int vectors, int cells>
  void lines(const ItemArgs& a, const float* sums, const Strip& strip, int64_t c) const {
    constexpr int64_t step = cells == 1 ? apart : pitch;  // of a line's sums
    int n[vectors];
    Vec bias[vectors], scale[vectors], shift[vectors];
    for (int i = 0; i < vectors; ++i) {
      const int64_t ci = cells == 1 ? c + i * W : c;
      n[i] = static_cast<int>(at_most(channels_ - ci, W));
      bias[i] = a.bias ? Vec::load_partial(a.bias + ci, n[i]) : Vec::zero();
      scale[i] = a.out.scale ? Vec::load_partial(a.out.scale + ci, n[i]) : Vec::set(1.f);
      shift[i] =
          a.out.scale ? Vec::fma(bias[i], scale[i], Vec::load_partial(a.out.shift + ci, n[i])) : bias[i];
    }
    if (a.partial) {
      statistics<vectors, cells>(a, sums, strip, c, n, bias);
      return;
    }
    const Activate act(a.out.activation);
    const bool six = a.out.activation == Activation::relu6;
    const auto value = [&](const float* s, int i) __attribute__((always_inline)) {
      return Vec::fma(Vec::load(s + i * step), scale[i], shift[i]);
    };
    const auto store = [&](Vec(&v)[vectors], U* to) __attribute__((always_inline)) {
      for (int i = 0; i < vectors; ++i) {
        v[i] = Vec::max(act.low, v[i]);
        if (six) v[i] = Vec::min(act.high, v[i]);
      }
      store_line(v, to, n);
      prefetch_line(to);
    };
    if (!a.other || a.other_channels <= c) {
      for_lines<cells>(a, sums, strip, c, [&](const float* s, int64_t, U* to) __attribute__((always_inline)) {
        Vec v[vectors];
        for (int i = 0; i < vectors; ++i) v[i] = value(s, i);
        store(v, to);
      });
      return;
    }
    int m[vectors];
    for (int i = 0; i < vectors; ++i) {
      const int64_t left = a.other_channels - (cells == 1 ? c + i * W : c);
      m[i] = static_cast<int>(at_most(left < 0 ? 0 : left, W));
    }
    const Bf16* const other = static_cast<const Bf16*>(a.other) + c;
    for_lines<cells>(
        a, sums, strip, c, [&](const float* s, int64_t at, U* to) __attribute__((always_inline)) {
          Vec v[vectors];
          for (int i = 0; i < vectors; ++i)
            v[i] = Vec::add(value(s, i), Vec::load_partial(other + at * a.other_channels + i * W, m[i]));
          store(v, to);
        });
  }

  template <int vectors, int cells>
  void statistics(const ItemArgs& a, const float* sums, const Strip& strip, int64_t c,
                  const int (&n)[vectors], const Vec (&bias)[vectors]) const {
    constexpr int64_t step = cells == 1 ? apart : pitch;
    constexpr int tables = cells == 1 ? vectors : 1;  // a line of cells is of the same channels throughout
    const int64_t padded = (channels_ + W - 1) / W * W;
    float* const table = a.sums + c;
    Vec shift[vectors], total[vectors], square[vectors];
    for (int i = 0; i < tables; ++i) {
      if (strip.start) {
        Vec::add(Vec::load(sums + i * step), bias[i]).store(table + i * W);
        Vec::zero().store(table + padded + i * W);
        Vec::zero().store(table + 2 * padded + i * W);
      }
      shift[i] = Vec::load(table + i * W);
      total[i] = Vec::load(table + padded + i * W);
      square[i] = Vec::load(table + 2 * padded + i * W);
    }
    for (int i = tables; i < vectors; ++i) shift[i] = shift[0], total[i] = square[i] = Vec::zero();
    for_lines<cells>(a, sums, strip, c, [&](const float* s, int64_t, U* to) __attribute__((always_inline)) {
      Vec v[vectors];
      for (int i = 0; i < vectors; ++i) {
        v[i] = Vec::add(Vec::load(s + i * step), bias[i]);
        const Vec d = Vec::sub(v[i], shift[i]);
        total[i] = Vec::add(total[i], d);
        square[i] = Vec::fma(d, d, square[i]);
      }
      store_line(v, to, n);
      prefetch_line(to);
    });
    for (int i = tables; i < vectors; ++i) {
      total[0] = Vec::add(total[0], total[i]);
      square[0] = Vec::add(square[0], square[i]);
    }
    for (int i = 0; i < tables; ++i) {
      total[i].store(table + padded + i * W);
      square[i].store(table + 2 * padded + i * W);
    }
  }

  // Calls line(sums, position among those of all images, output) for each line of a strip.
  template <int cells, class F>
  LASFAST_INLINE void for_lines(const ItemArgs& a, const float* sums, const Strip& strip, int64_t c,
                                F line) const {
    U* const output = static_cast<U*>(a.output) + c;
    const int64_t channels = channels_;
    if (group_ == 1) {
      const int64_t first = strip.position + strip.cell;
      for (int64_t i = 0; i < strip.count; i += cells)
        line(sums + i * pitch, first + i, output + (first + i) * channels);
      return;
    }
    const uint32_t cell = static_cast<uint32_t>(strip.cell), group = static_cast<uint32_t>(group_);
    int64_t g = cell % group, at = g * image_ + strip.position + cell / group;
    for (int64_t i = 0; i < strip.count; ++i) {
      if (g < a.images) line(sums + i * pitch, at, output + at * channels);
      at += image_;
      if (++g == group_) g = 0, at += 1 - group_ * image_;
    }
  }

  const bool common_, one_vector_;
  const int64_t group_, channels_, image_;
};

}  // namespace
