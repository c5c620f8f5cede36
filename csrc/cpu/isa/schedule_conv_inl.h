// Convolutions over cells (see schedule_kernels.h), on vectors of output channels; part of schedule_inl.h.
//
// A tile of P cells by N vectors of channels stays in registers while all taps and input channels pass: each
// step loads N vectors of weights and broadcasts P inputs.

namespace {

constexpr int max_kernel = 11;

inline int64_t cell_row(const Cells& cells) { return cells.phases * cells.cols * cells.group; }

// Shift of each tap, in elements.
inline void fill_taps(const ItemArgs& a, int64_t* taps) {
  const Cells& e = a.cells;
  const int64_t s = a.stride;
  for (int64_t r = 0; r < a.kernel; ++r)
    for (int64_t x = 0; x < a.kernel; ++x)
      *taps++ = ((((r % s) * e.rows + r / s) * e.phases + x % s) * e.cols + x / s) * e.group * e.size;
}

// `size` elements of each cell and each piece of it.
template <class D>
inline void zero_cells(const Cells& e, D* to, int64_t count, int64_t size) {
  for (int64_t k = 0; k == 0 || k < e.chunks; ++k)
    for (int64_t i = 0; i < count; ++i) __builtin_memset(to + k * e.plane + i * e.size, 0, size * sizeof(D));
}

// `count` positions of one row, `from_pitch` and `to_pitch` elements apart, transformed. `second`, where not
// null, gets the same.
template <bool clamp, bool whole, bool twice, class T, class D>
LASFAST_INLINE void fill_vectors(const T* from, int64_t from_pitch, D* to, int64_t to_pitch, D* second,
                                 int64_t count, int n, int keep, const Transform& in) {
  for (int64_t i = 0; i < count; ++i) {
    const Vec v = in.activate.template run<clamp>(in.norm(load_n(from + i * from_pitch, whole ? W : n)));
    store_n(v, to + i * to_pitch, whole ? W : keep);
    if (twice) store_n(v, second + i * to_pitch, whole ? W : keep);
  }
}

// Of all channels; `whole_vectors`: cells have room for whole vectors, and get zeros there. Pieces of 32
// channels are `piece` elements further apart than those.
template <class T, class D>
inline void fill_positions(const ItemArgs& a, const T* from, int64_t from_pitch, D* to, int64_t to_pitch,
                           D* second, int64_t count, bool whole_vectors, int64_t piece = 0) {
  const int64_t channels = a.in_channels;
  for (int64_t c = 0; c < channels; c += W) {
    const int n = static_cast<int>(at_most(channels - c, W)), keep = whole_vectors ? W : n;
    const Transform in(a.in, c, n);
    D* const into = to + c + c / 32 * piece;
    if (!in.activate.clamps())
      second
          ? fill_vectors<false, false, true>(from + c, from_pitch, into, to_pitch, second, count, n, keep, in)
          : fill_vectors<false, false, false>(from + c, from_pitch, into, to_pitch, second, count, n, keep,
                                              in);
    else if (n < W)
      second
          ? fill_vectors<true, false, true>(from + c, from_pitch, into, to_pitch, second, count, n, keep, in)
          : fill_vectors<true, false, false>(from + c, from_pitch, into, to_pitch, second, count, n, keep,
                                             in);
    else
      second
          ? fill_vectors<true, true, true>(from + c, from_pitch, into, to_pitch, second, count, n, keep, in)
          : fill_vectors<true, true, false>(from + c, from_pitch, into, to_pitch, second, count, n, keep, in);
  }
}

// Padded rows first .. last of the band of output rows from y0 on. `whole_vectors`: cells have room for whole
// vectors, and what no channel fills becomes zero.
template <class T, class D>
void fill_cells(const ItemArgs& a, int64_t y0, int64_t first_row, int64_t last_row, D* cells,
                bool whole_vectors) {
  const Cells& e = a.cells;
  const T* input = static_cast<const T*>(a.input);
  const int64_t channels = a.in_channels, s = a.stride;
  const int64_t image = a.in_height * a.in_width * channels;
  const bool paired = e.mode == CellMode::paired;
  const int64_t first_channels = (channels + W - 1) / W * W;
  const int64_t piece = e.plane > 32 ? e.plane - 32 : 0;

  if (a.flatten) {
    const int64_t positions = a.in_height * a.in_width;
    for (int64_t g = 0; g < e.group; ++g) {
      D* to = cells + g * e.size;
      __builtin_memset(to, 0, e.size * sizeof(D));
      if (g < a.images)
        fill_positions(a, input + g * image, channels, to, channels, static_cast<D*>(nullptr), positions,
                       false);
    }
    return;
  }

  const int64_t row_cells = cell_row(e), pitch = e.group * e.size;
  const int64_t padded_cols = (a.out_width - 1) * s + a.kernel;
  for (int64_t r = first_row; r < last_row; ++r) {
    if (r % s >= e.phases) continue;
    D* row = cells + ((r % s) * e.rows + r / s) * row_cells * e.size;
    const int64_t y = y0 * s + r - a.padding;
    if (y < 0 || y >= a.in_height || a.images < e.group) {
      for (int64_t k = 0; k == 0 || k < e.chunks; ++k)
        __builtin_memset(row + k * e.plane, 0, row_cells * e.size * sizeof(D));
      if (y < 0 || y >= a.in_height) continue;
    }
    for (int64_t f = 0; f < e.phases; ++f) {
      // Padded columns f, f + s, ...: before `left` and from `right` on (in steps of s) they are padding.
      D* to = row + f * e.cols * pitch;
      const int64_t steps = (padded_cols - f + s - 1) / s;
      const int64_t left = at_most(f >= a.padding ? 0 : (a.padding - f + s - 1) / s, steps);
      const int64_t reach = a.padding + a.in_width - f;
      int64_t right = at_most(reach > 0 ? (reach + s - 1) / s : 0, steps);
      if (right < left) right = left;
      const int64_t zeros = paired ? 16 : e.size;
      zero_cells(e, to, left * e.group, zeros);
      zero_cells(e, to + right * pitch, (steps - right) * e.group, zeros);
      // The second half of the cell one column to the left holds the same.
      D* second = nullptr;
      int64_t second_from = 0;  // steps whose left neighbour is a cell
      if (paired) {
        const int64_t g = f == 0 ? s - 1 : f - 1;
        if (g < e.phases) {
          second = row + g * e.cols * pitch + 16 - (f == 0 ? pitch : 0);
          second_from = f == 0 ? 1 : 0;
          if (left > second_from)
            zero_cells(e, second + second_from * pitch, (left - second_from) * e.group, 16);
          const int64_t from = right > second_from ? right : second_from;
          zero_cells(e, second + from * pitch, (steps - from) * e.group, 16);
        }
      }
      if (right == left) continue;
      const T* from_row = input + (y * a.in_width + left * s + f - a.padding) * channels;
      for (int64_t g = 0; g < a.images; ++g) {
        const T* from = from_row + g * image;
        D* first = to + left * pitch + g * e.size;
        D* other = second ? second + left * pitch + g * e.size : nullptr;
        int64_t count = right - left;
        if (other && left < second_from) {  // column 0 has no left neighbour
          fill_positions(a, from, s * channels, first, pitch, static_cast<D*>(nullptr), 1, whole_vectors,
                         piece);
          from += s * channels, first += pitch, other += pitch, --count;
        }
        fill_positions(a, from, s * channels, first, pitch, other, count, whole_vectors, piece);
        if (whole_vectors && !paired && first_channels % 32 != 0)
          for (int64_t i = 0; i < right - left; ++i)
            __builtin_memset(
                to + (left + i) * pitch + g * e.size + first_channels + first_channels / 32 * piece, 0,
                16 * sizeof(D));
      }
    }
  }
}

template <int P, int N>
inline void convolution_tile(const float* cells, int64_t size, int64_t channels, const int64_t* taps,
                             int64_t tap_count, const float* weight, float* acc) {
  constexpr int G = (P + 2) / 3;
  Vec sum[P][N];
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < N; ++v) sum[p][v] = Vec::zero();
  for (int64_t t = 0; t < tap_count; ++t) {
    const float* from[G];
    for (int i = 0; i < G; ++i) from[i] = cells + taps[t] + 3 * i * size;
    const auto add = [&](int64_t c) __attribute__((always_inline)) {
      Vec w[N];
      for (int v = 0; v < N; ++v) w[v] = Vec::load(weight + (c * N + v) * W);
      for (int p = 0; p < P; ++p) {
        const Vec x = Vec::set(from[p / 3][p % 3 * size + c]);
        for (int v = 0; v < N; ++v) sum[p][v] = Vec::fma(x, w[v], sum[p][v]);
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
    for (; c + 4 <= channels; c += 4) {
      for (int u = 0; u < 4; ++u) add(u);
      advance(4);
    }
    for (; c < channels; ++c) {
      add(0);
      advance(1);
    }
  }
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < N; ++v) sum[p][v].store(acc + (p * N + v) * W);
}

// P cells for as long as there are so many, then fewer.
template <int P, int N, class T, class U>
inline void convolution_row(const ItemArgs& a, const float* cells, const int64_t* taps, int64_t tap_count,
                            const float* weight, int64_t position, int64_t cell, int64_t length, int64_t c,
                            bool start) {
  alignas(64) float acc[P * N * W];
  const int64_t size = a.cells.size;
  // Twelve and four take longer than eight and eight.
  while (length - cell >= P && !(P == 12 && length - cell == 16)) {
    convolution_tile<P, N>(cells + cell * size, size, size, taps, tap_count, weight, acc);
    for (int v = 0; v < N; ++v)
      if (c + v * W < a.out_channels)
        finish<T, U>(a, acc + v * W, N * W, position, cell, P, c + v * W, start && cell == 0);
    cell += P;
  }
  if constexpr (P > 1) {
    constexpr int next = P == 12 ? 8 : P == 6 ? 4 : P / 2;
    if (cell < length)
      convolution_row<next, N, T, U>(a, cells, taps, tap_count, weight, position, cell, length, c, start);
  }
}

// Calls row(cells of the row, position of its first output, length in cells, first of the item) for each row
// of outputs in the band from y0 on.
template <class D, class F>
inline void for_rows(const ItemArgs& a, const D* cells, int64_t y0, int64_t rows, F row) {
  const int64_t group = a.cells.group, first = y0 * a.out_width;
  if (a.kernel == 1 || a.cells.mode == CellMode::gathered) {  // no columns between rows
    row(cells, first, rows * a.out_width * group, y0 == 0);
    return;
  }
  const int64_t pitch = cell_row(a.cells) * a.cells.size;
  for (int64_t y = 0; y < rows; ++y)
    row(cells + y * pitch, first + y * a.out_width, a.out_width * group, y0 + y == 0);
}

template <class T, class U>
void convolution(const ItemArgs& a) {
  int64_t taps[max_kernel * max_kernel];
  fill_taps(a, taps);
  const int64_t tap_count = a.kernel * a.kernel;
  float* cells = static_cast<float*>(a.cell_scratch);
  for (int64_t y0 = 0; y0 < a.out_height; y0 += a.cells.band) {
    const int64_t rows = at_most(a.out_height - y0, a.cells.band);
    fill_cells<T>(a, y0, 0, (rows - 1) * a.stride + a.kernel, cells, false);
    const float* weight = static_cast<const float*>(a.weight);
    for (int64_t c = 0; c < a.out_channels;) {
      const bool wide = a.out_channels - c > W;
      for_rows(a, cells, y0, rows, [&](const float* row, int64_t position, int64_t length, bool start) {
        if (wide)
          convolution_row<convolution_cells, 2, T, U>(a, row, taps, tap_count, weight, position, 0, length, c,
                                                      start);
        else
          convolution_row<2 * convolution_cells, 1, T, U>(a, row, taps, tap_count, weight, position, 0,
                                                          length, c, start);
      });
      const int64_t width = wide ? 2 * W : W;
      weight += tap_count * a.cells.size * width;
      c += width;
    }
  }
}

template <int P>
inline void depthwise_tile(const float* cells, int64_t size, const int64_t* taps, int64_t tap_count,
                           const float* weight, float* acc) {
  Vec sum[P];
  for (int p = 0; p < P; ++p) sum[p] = Vec::zero();
  for (int64_t t = 0; t < tap_count; ++t) {
    const Vec w = Vec::load(weight + t * W);
    const float* from = cells + taps[t];
    for (int p = 0; p < P; ++p) sum[p] = Vec::fma(Vec::load(from + p * size), w, sum[p]);
  }
  for (int p = 0; p < P; ++p) sum[p].store(acc + p * W);
}

template <class T, class U>
void depthwise(const ItemArgs& a) {
  int64_t taps[max_kernel * max_kernel];
  fill_taps(a, taps);
  const int64_t tap_count = a.kernel * a.kernel, size = a.cells.size;
  float* cells = static_cast<float*>(a.cell_scratch);
  alignas(64) float acc[8 * W];
  for (int64_t y0 = 0; y0 < a.out_height; y0 += a.cells.band) {
    const int64_t rows = at_most(a.out_height - y0, a.cells.band);
    fill_cells<T>(a, y0, 0, (rows - 1) * a.stride + a.kernel, cells, false);
    for (int64_t c = 0; c < a.out_channels; c += W) {
      const float* weight = static_cast<const float*>(a.weight) + c * tap_count;
      for_rows(a, cells, y0, rows, [&](const float* row, int64_t position, int64_t length, bool start) {
        int64_t cell = 0;
        for (; length - cell >= 8; cell += 8) {
          depthwise_tile<8>(row + cell * size + c, size, taps, tap_count, weight, acc);
          finish<T, U>(a, acc, W, position, cell, 8, c, start && cell == 0);
        }
        for (; cell < length; ++cell) {
          depthwise_tile<1>(row + cell * size + c, size, taps, tap_count, weight, acc);
          finish<T, U>(a, acc, W, position, cell, 1, c, start && cell == 0);
        }
      });
    }
  }
}

}  // namespace
