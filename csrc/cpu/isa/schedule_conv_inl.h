// Convolutions over cells (see schedule_kernels.h), on vectors of output channels; part of
// schedule_kernels.cpp.
//
// A tile of P cells by N vectors of channels stays in registers while all taps and input channels pass: each
// step loads N vectors of weights and broadcasts P inputs. Inputs are fp32 or, where bf16 values are
// multiplied by pairs, two channels of them; either takes four bytes.

namespace {

// So many cells by two vectors are a tile of sums, which stays in registers.
constexpr int convolution_cells = isa == lasfast::Isa::generic       ? 4
                                  : isa == lasfast::Isa::avx2        ? 6
                                  : isa == lasfast::Isa::avx512_bf16 ? 12
                                                                     : 8;
// And so many cells by one vector. (With NEON, whose inputs are vectors, these need registers, too.)
#ifdef LASFAST_VEC_NEON
constexpr int convolution_cells_of_one = 12;
#else
constexpr int convolution_cells_of_one = 2 * convolution_cells;
#endif

inline int64_t cell_row(const Cells& cells) { return cells.phases * cells.cols * cells.group; }

// The shifts of taps, in elements.
struct Taps {
  int64_t shift[max_kernel * max_kernel], count = 0;

  // All taps, where a cell holds so many columns.
  explicit Taps(const ItemArgs& a, int64_t columns = 1) {
    for (int64_t r = 0; r < a.kernel; ++r)
      for (int64_t first = 0; first < a.kernel; first += columns) {
        const int64_t x = at_most(first, a.kernel - columns);
        add(a, r, x < 0 ? 0 : x);
      }
  }
  Taps(const ItemArgs& a, TapRange rows, TapRange columns) {
    for (int64_t r = rows.first; r <= rows.last; ++r)
      for (int64_t x = columns.first; x <= columns.last; ++x) add(a, r, x);
  }

 private:
  void add(const ItemArgs& a, int64_t r, int64_t x) {
    const Cells& e = a.cells;
    const int64_t s = a.stride;
    shift[count++] = ((((r % s) * e.rows + r / s) * e.phases + x % s) * e.cols + x / s) * e.group * e.size;
  }
};

// The taps that the output channels of one part have (see ItemArgs::phases).
inline Taps taps_of(const ItemArgs& a, int64_t part) {
  return Taps(a, a.tap_ranges[part / a.phases], a.tap_ranges[part % a.phases]);
}

// Transforms `count` positions of one row, `from_pitch` and `to_pitch` elements apart. `m`: how many of n
// channels, and zeros behind them, are stored.
template <bool clamp, bool whole, class T, class D>
LASFAST_INLINE void fill_vectors(const T* from, int64_t from_pitch, D* to, int64_t to_pitch, int64_t count,
                                 int n, int m, const Transform& in) {
  for (int64_t i = 0; i < count; ++i) {
    const Vec v = in.activate.template run<clamp>(in.norm(load_n(from + i * from_pitch, whole ? W : n)));
    store_n(v, to + i * to_pitch, whole ? W : m);
  }
}

// Fills cells with n channels from c on, and with one more, whose weights are zero, where n is odd and `even`
// says so.
template <class T, class D>
inline void fill_positions(const ItemArgs& a, const T* from, int64_t from_pitch, D* to, int64_t to_pitch,
                           int64_t count, int64_t c, int64_t n, bool even = false) {
  for (const int64_t end = c + n; c < end; c += W, to += W) {
    const int some = static_cast<int>(at_most(end - c, W)), stored = even ? (some + 1) / 2 * 2 : some;
    const Transform in(a.in, c, some);
    if (!in.activate.clamps())
      fill_vectors<false, false>(from + c, from_pitch, to, to_pitch, count, some, stored, in);
    else if (some < W)
      fill_vectors<true, false>(from + c, from_pitch, to, to_pitch, count, some, stored, in);
    else
      fill_vectors<true, true>(from + c, from_pitch, to, to_pitch, count, some, stored, in);
  }
}

// The place in the input of columns f, f + s, ... of a padded row. There are `steps` of them: `left` .. right
// - 1 are the input's from column `column` on, the others are padding.
struct Phase {
  int64_t steps, left, right, column;

  Phase() = default;
  LASFAST_INLINE Phase(const ItemArgs& a, int64_t f) {
    const int64_t s = a.stride, padded_cols = (a.out_width - 1) * s + a.kernel;
    const int64_t reach = a.padding + a.in_width - f;
    steps = (padded_cols - f + s - 1) / s;
    left = at_most(f >= a.padding ? 0 : (a.padding - f + s - 1) / s, steps);
    right = at_most(reach > 0 ? (reach + s - 1) / s : 0, steps);
    if (right < left) right = left;
    column = left * s + f - a.padding;
  }
};

// Fills all padded rows of the band of `rows` output rows from y0 on.
template <class M, class T>
void fill_cells(const ItemArgs& a, int64_t y0, int64_t rows, typename M::Cell* cells) {
  using D = typename M::Stored;
  constexpr bool even = M::values == 2;
  const Cells& e = a.cells;
  const T* input = static_cast<const T*>(a.input);
  const int64_t channels = a.in_channels, s = a.stride;
  const int64_t image = a.in_height * a.in_width * channels;

  if (a.flatten) {
    __builtin_memset(cells, 0, e.group * e.size * sizeof *cells);
    for (int64_t g = 0; g < a.images; ++g)
      fill_positions(a, input + g * image, channels, reinterpret_cast<D*>(cells + g * e.size), channels,
                     a.in_height * a.in_width, 0, channels);
    return;
  }

  const int64_t row_cells = cell_row(e), pitch = e.group * e.size;
  for (int64_t r = 0; r < (rows - 1) * s + a.kernel; ++r) {
    if (r % s >= e.phases) continue;
    auto* row = cells + ((r % s) * e.rows + r / s) * row_cells * e.size;
    const int64_t y = y0 * s + r - a.padding;
    const bool inside = y >= 0 && y < a.in_height;
    if (!inside || a.images < e.group) __builtin_memset(row, 0, row_cells * e.size * sizeof *row);
    if (!inside) continue;
    for (int64_t f = 0; f < e.phases; ++f) {
      const Phase p(a, f);
      auto* to = row + f * e.cols * pitch;
      __builtin_memset(to, 0, p.left * pitch * sizeof *to);
      __builtin_memset(to + p.right * pitch, 0, (p.steps - p.right) * pitch * sizeof *to);
      if (p.right == p.left) continue;
      const T* from = input + (y * a.in_width + p.column) * channels;
      for (int64_t g = 0; g < a.images; ++g)
        fill_positions(a, from + g * image, s * channels,
                       reinterpret_cast<D*>(to + p.left * pitch + g * e.size), pitch * M::values,
                       p.right - p.left, 0, channels, even);
    }
  }
}

// Adds the products of lane `lane` of P vectors of inputs by N vectors of weights.
template <int lane, class M, int P, int N>
LASFAST_INLINE void add_lane(const M (&x)[P], const typename M::Cell* weight, Vec (&sum)[P][N]) {
  M w[N];
  for (int v = 0; v < N; ++v) w[v] = M::load(weight + (lane * N + v) * W);
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < N; ++v) sum[p][v] = M::template add_lane<lane>(x[p], w[v], sum[p][v]);
}

template <class M, int P, int N, class C = typename M::Cell>
inline void convolution_tile(const C* cells, int64_t size, const Taps& taps, const C* weight, float* acc) {
  constexpr int G = (P + 2) / 3;
  Vec sum[P][N];
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < N; ++v) sum[p][v] = Vec::zero();
  for (int64_t t = 0; t < taps.count; ++t) {
    const C* from[G];
    for (int i = 0; i < G; ++i) from[i] = cells + taps.shift[t] + 3 * i * size;
    const auto add = [&](int64_t c) __attribute__((always_inline)) {
      M w[N];
      for (int v = 0; v < N; ++v) w[v] = M::load(weight + (c * N + v) * W);
#pragma GCC unroll 24
      for (int p = 0; p < P; ++p) {
        const M x = M::set(from[p / 3] + p % 3 * size + c);
        for (int v = 0; v < N; ++v) sum[p][v] = M::add(x, w[v], sum[p][v]);
      }
    };
    // A pointer for each three cells; the others are one and two `size` away. The compiler must not know that
    // they are related, or it keeps twelve addresses and runs out of registers.
    const auto advance = [&](int64_t c) __attribute__((always_inline)) {
      weight += c * N * W;
      for (int i = 0; i < G; ++i) {
        from[i] += c;
        __asm__("" : "+r"(from[i]));
      }
    };
    int64_t c = 0;
    for (; c + 4 <= size; c += 4) {
      if constexpr (M::lanes == 4) {
        M x[P];
#pragma GCC unroll 24
        for (int p = 0; p < P; ++p) x[p] = M::load(from[p / 3] + p % 3 * size);
        add_lane<0>(x, weight, sum);
        add_lane<1>(x, weight, sum);
        add_lane<2>(x, weight, sum);
        add_lane<3>(x, weight, sum);
      } else {
        for (int u = 0; u < 4; ++u) add(u);
      }
      advance(4);
    }
    for (; c < size; ++c) {
      add(0);
      advance(1);
    }
  }
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < N; ++v) sum[p][v].store(acc + (p * N + v) * W);
}

// Does what follows the sums of `count` cells from `cell` on, N vectors of channels from c on.
template <class M, int N, class T, class U>
inline void finish_cells(const ItemArgs& a, const float* acc, int64_t position, int64_t cell, int64_t count,
                         int64_t c, bool start) {
#ifdef LASFAST_FOR_AVX512_BF16
  if constexpr (M::values == 2) {
    const int vectors = N == 2 && c + W < a.out_channels ? 2 : 1;
    LineFinish<U, N * W, W>(a).run(a, acc, {nullptr, position, cell, count, start}, c, vectors);
    return;
  }
#endif
  for (int v = 0; v < N; ++v)
    if (c + v * W < a.out_channels)
      finish<T, U>(a, acc + v * W, N * W, position, cell, count, c + v * W, start);
}

// Sums P cells at a time for as long as there are so many, then fewer.
template <class M, int P, int N, class T, class U, class C = typename M::Cell>
inline void convolution_row(const ItemArgs& a, const C* cells, const Taps& taps, const C* weight,
                            int64_t position, int64_t cell, int64_t length, int64_t c, bool start) {
  alignas(64) float acc[P * N * W];
  const int64_t size = a.cells.size;
  // Twelve and four take longer than eight and eight.
  while (length - cell >= P && !(P == 12 && length - cell == 16)) {
    convolution_tile<M, P, N>(cells + cell * size, size, taps, weight, acc);
    finish_cells<M, N, T, U>(a, acc, position, cell, P, c, start && cell == 0);
    cell += P;
  }
  if constexpr (P > 1) {
    constexpr int next = P == 12 ? 8 : P == 6 ? 4 : P / 2;
    if (cell < length)
      convolution_row<M, next, N, T, U>(a, cells, taps, weight, position, cell, length, c, start);
  }
}

// Calls row(cells of the row, position of its first output, length in cells, first of the item) for each row
// of outputs in the band from y0 on.
template <class D, class F>
inline void for_rows(const ItemArgs& a, const D* cells, int64_t y0, int64_t rows, F row) {
  const int64_t group = a.cells.group, first = y0 * a.out_width;
  if (a.kernel == 1) {  // no columns between rows
    row(cells, first, rows * a.out_width * group, y0 == 0);
    return;
  }
  const int64_t pitch = cell_row(a.cells) * a.cells.size;
  for (int64_t y = 0; y < rows; ++y)
    row(cells + y * pitch, first + y * a.out_width, a.out_width * group, y0 + y == 0);
}

// Returns whether the input lies as its cells would.
template <class M, class T>
inline bool in_place(const ItemArgs& a) {
  if (sizeof(T) != sizeof(typename M::Stored) || a.in.scale || a.in.activation != Activation::none)
    return false;
  return a.kernel == 1 && a.stride == 1 && a.padding == 0 && !a.flatten && a.cells.group == 1 &&
         a.in_channels % M::values == 0;
}

template <class M, class T, class U>
void convolution(const ItemArgs& a) {
  using C = typename M::Cell;
  Taps taps(a);
  const int64_t part_channels = a.phases > 0 ? a.out_channels / (a.phases * a.phases) : a.out_channels;
  C* const scratch = static_cast<C*>(a.cell_scratch);
  for (int64_t y0 = 0; y0 < a.out_height; y0 += a.cells.band) {
    const int64_t rows = at_most(a.out_height - y0, a.cells.band);
    const C* cells = scratch;
    if (in_place<M, T>(a))
      cells = reinterpret_cast<const C*>(static_cast<const T*>(a.input) + y0 * a.in_width * a.in_channels);
    else
      fill_cells<M, T>(a, y0, rows, scratch);
    const C* weight = static_cast<const C*>(a.weight);
    for (int64_t c = 0; c < a.out_channels;) {
      const int64_t part = c / part_channels;
      if (a.phases > 0) taps = taps_of(a, part);
      const bool wide = (part + 1) * part_channels - c > W;
      for_rows(a, cells, y0, rows, [&](const C* row, int64_t position, int64_t length, bool start) {
        if (wide)
          convolution_row<M, convolution_cells, 2, T, U>(a, row, taps, weight, position, 0, length, c, start);
        else
          convolution_row<M, convolution_cells_of_one, 1, T, U>(a, row, taps, weight, position, 0, length, c,
                                                                start);
      });
      const int64_t width = wide ? 2 * W : W;
      weight += taps.count * a.cells.size * width;
      c += width;
    }
  }
}

}  // namespace
