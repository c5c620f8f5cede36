// 3x3 convolutions by Winograd's algorithm (see WinogradBlock in schedule_kernels.h), on vectors of channels;
// part of schedule_kernels.cpp.
#include "winograd_inl.h"

namespace {

using lasfast::WinogradBlock;

// Fills the inputs of a strip's tiles, n channels from c on, as `cells` [side + 2, columns, W], and
// transforms the columns. Lanes beyond n are left as they are, but for one where n is odd and `even` says so.
template <int side, class T>
LASFAST_INLINE void winograd_columns(const ItemArgs& a, const WinogradStrip& s, int64_t c, int64_t n,
                                     bool even, float* cells) {
  constexpr int size = side + 2;
  const int64_t columns = s.tiles * side + 2, pitch = columns * W;
  const int64_t y0 = s.row * side - a.padding, x0 = s.col * side - a.padding;
  const int64_t left = x0 < 0 ? -x0 : 0, right = at_least(at_most(columns, a.in_width - x0), left);
  const T* input = static_cast<const T*>(a.input) + s.image * a.in_height * a.in_width * a.in_channels;
  for (int64_t r = 0; r < size; ++r) {
    float* const row = cells + r * pitch;
    const int64_t y = y0 + r;
    if (y < 0 || y >= a.in_height) {
      __builtin_memset(row, 0, pitch * sizeof *row);
      continue;
    }
    __builtin_memset(row, 0, left * W * sizeof *row);
    fill_positions(a, input + (y * a.in_width + x0 + left) * a.in_channels, a.in_channels, row + left * W, W,
                   right - left, c, n, even);
    __builtin_memset(row + right * W, 0, (columns - right) * W * sizeof *row);
  }
  for (int64_t x = 0; x < pitch; x += W) {
    Vec d[size], t[size];
    for (int r = 0; r < size; ++r) d[r] = Vec::load(cells + r * pitch + x);
    WinogradTransform<side>::input(d, t);
    for (int r = 0; r < size; ++r) t[r].store(cells + r * pitch + x);
  }
}

// Transforms the inputs of a strip's tiles.
template <int side, class M, class T>
void winograd_inputs(const ItemArgs& a, const WinogradStrip& s, typename M::Cell* transformed) {
  using D = typename M::Stored;
  constexpr int size = side + 2;
  alignas(64) float cells[size * (winograd_strip * side + 2) * W];
  const int64_t pitch = (s.tiles * side + 2) * W;
  for (int64_t c = 0; c < a.in_channels; c += W) {
    const int n = static_cast<int>(at_most(a.in_channels - c, W));
    constexpr bool even = M::values == 2;
    const int stored = even ? (n + 1) / 2 * 2 : n;
    winograd_columns<side, T>(a, s, c, n, even, cells);
    for (int64_t r = 0; r < size; ++r)
      for (int64_t i = 0; i < s.tiles; ++i) {
        Vec d[size], t[size];
        for (int j = 0; j < size; ++j) d[j] = Vec::load(cells + r * pitch + (i * side + j) * W);
        WinogradTransform<side>::input(d, t);
        D* to = reinterpret_cast<D*>(transformed + r * size * a.winograd.input_plane +
                                     (s.number + i) * a.winograd.cells) +
                c;
        for (int j = 0; j < size; ++j, to += a.winograd.input_plane * M::values) store_n(t[j], to, stored);
      }
  }
}

// Multiplies P tiles at a time for as long as there are so many, then fewer.
template <class M, int P, int N, class C = typename M::Cell>
LASFAST_INLINE void winograd_products(const C* inputs, int64_t cells, const Taps& one, const C* weight,
                                      float* products, int64_t tiles) {
  for (; tiles >= P; tiles -= P, inputs += P * cells, products += P * N * W)
    convolution_tile<M, P, N>(inputs, cells, one, weight, products);
  if constexpr (P > 1) {
    constexpr int next = P == 12 ? 8 : P == 6 ? 4 : P / 2;
    if (tiles > 0) winograd_products<M, next, N>(inputs, cells, one, weight, products, tiles);
  }
}

// Transforms the products of a strip's tiles, W channels from c on, and does what follows.
template <int side, class T, class U>
void winograd_outputs(const ItemArgs& a, const WinogradStrip& s, const float* products, int64_t c,
                      bool start) {
  constexpr int size = side + 2;
  alignas(64) float acc[side * winograd_strip * side * W];
  const WinogradBlock& b = a.winograd;
  const int64_t block = c / (2 * W) * (2 * W), width = a.out_channels - block > W ? 2 * W : W;
  const float* from = products + block * b.tiles + s.number * width + (c - block);
  const int64_t columns = s.tiles * side;
  for (int64_t i = 0; i < s.tiles; ++i, from += width) {
    Vec rows[size][side];
    for (int r = 0; r < size; ++r) {
      Vec m[size];
      for (int j = 0; j < size; ++j) m[j] = Vec::load(from + (r * size + j) * b.product_plane);
      WinogradTransform<side>::output(m, rows[r]);
    }
    for (int x = 0; x < side; ++x) {
      Vec m[size], y[side];
      for (int r = 0; r < size; ++r) m[r] = rows[r][x];
      WinogradTransform<side>::output(m, y);
      for (int r = 0; r < side; ++r) y[r].store(acc + (r * columns + i * side + x) * W);
    }
  }
  const int64_t y0 = s.row * side, x0 = s.col * side;
  const int64_t height = at_most(a.out_height - y0, side), length = at_most(a.out_width - x0, columns);
  if (length == a.out_width && length == columns) {  // all its rows are one run of positions
    finish<T, U>(a, acc, W, y0 * a.out_width, 0, height * length, c, start);
    return;
  }
  for (int64_t r = 0; r < height; ++r)
    finish<T, U>(a, acc + r * columns * W, W, (y0 + r) * a.out_width + x0, 0, length, c, start && r == 0);
}

template <int side, class M, class T, class U>
void winograd(const ItemArgs& a) {
  using C = typename M::Cell;
  constexpr int64_t positions = (side + 2) * (side + 2);
  const WinogradBlock& b = a.winograd;
  const Taps one(a, {0, 0}, {0, 0});
  C* const inputs = static_cast<C*>(a.cell_scratch);
  float* const products = reinterpret_cast<float*>(inputs + positions * b.input_plane);
  const int64_t all = a.images * b.rows * b.cols;
  for (int64_t first = 0; first < all; first += b.tiles) {
    const int64_t tiles = at_most(all - first, b.tiles);
    for_strips(b.rows, b.cols, first, tiles,
               [&](const WinogradStrip& s) { winograd_inputs<side, M, T>(a, s, inputs); });
    const C* weight = static_cast<const C*>(a.weight);
    for (int64_t t = 0; t < positions; ++t)
      for (int64_t c = 0; c < a.out_channels;) {
        const C* const from = inputs + t * b.input_plane;
        float* const to = products + t * b.product_plane + c * b.tiles;
        const int64_t width = a.out_channels - c > W ? 2 * W : W;
        if (width > W)
          winograd_products<M, convolution_cells, 2>(from, b.cells, one, weight, to, tiles);
        else
          winograd_products<M, convolution_cells_of_one, 1>(from, b.cells, one, weight, to, tiles);
        weight += b.cells * width;
        c += width;
      }
    for_strips(b.rows, b.cols, first, tiles, [&](const WinogradStrip& s) {
      ItemArgs image = a;
      const int64_t output = s.image * a.out_height * a.out_width;
      image.images = 1;
      image.output = static_cast<U*>(a.output) + output * a.out_channels;
      if (a.other) image.other = static_cast<const T*>(a.other) + output * a.other_channels;
      for (int64_t c = 0; c < a.out_channels; c += W)
        winograd_outputs<side, T, U>(image, s, products, c, first == 0 && s.number == 0);
    });
  }
}

}  // namespace
