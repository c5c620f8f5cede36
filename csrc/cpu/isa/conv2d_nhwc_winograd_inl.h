// The weight gradient of a 3x3 convolution by Winograd's algorithm (see WinogradGradWeightItem), on vectors
// of channels; part of conv2d_nhwc_kernels.cpp.
#include "winograd_inl.h"

namespace {

using lasfast::WinogradGradWeightItem;
using lasfast::WinogradGradWeightSums;

// Transforms the inputs of a strip's tiles, n channels from c on: W of them where `whole`.
template <int side, bool whole>
void winograd_left(const WinogradGradWeightItem& a, const WinogradStrip& s, int64_t c, int n) {
  constexpr int size = side + 2;
  alignas(64) float cells[size * (winograd_strip * side + 2) * W];
  alignas(64) constexpr float zeros[W] = {};
  const int64_t columns = s.tiles * side + 2, pitch = columns * W;
  const int64_t y0 = s.row * side - a.padding, x0 = s.col * side - a.padding;
  const int64_t left = at_most(at_least(-x0, 0), columns),
                right = at_least(at_most(columns, a.in_width - x0), left);
  // Rows of padding are read from one place.
  const float* rows[size];
  int64_t step[size];
  for (int r = 0; r < size; ++r) {
    const int64_t y = y0 + r;
    const bool inside = y >= 0 && y < a.in_height;
    rows[r] = inside ? static_cast<const float*>(a.input.values) + s.image * a.input.image + y * a.input.row +
                           x0 * a.input.column + c
                     : zeros;
    step[r] = inside ? a.input.column : 0;
    __builtin_memset(cells + r * pitch, 0, left * W * sizeof *cells);
    __builtin_memset(cells + r * pitch + right * W, 0, (columns - right) * W * sizeof *cells);
  }
  for (int64_t x = left; x < right; ++x) {
    Vec d[size], t[size];
    for (int r = 0; r < size; ++r) d[r] = load_n(rows[r] + x * step[r], whole ? W : n);
    WinogradTransform<side>::input(d, t);
    for (int r = 0; r < size; ++r) t[r].store(cells + r * pitch + x * W);
  }
  float* to = a.left_scratch + s.number * a.left_pitch + c;
  for (int64_t i = 0; i < s.tiles; ++i, to += a.left_pitch)
    for (int64_t r = 0; r < size; ++r) {
      Vec d[size], t[size];
      for (int j = 0; j < size; ++j) d[j] = Vec::load(cells + r * pitch + (i * side + j) * W);
      WinogradTransform<side>::input(d, t);
      for (int j = 0; j < size; ++j) t[j].store(to + (r * size + j) * a.left_plane);
    }
}

// Transforms the gradients of a strip's tiles, n channels from c on, which are stored from `to` on.
template <int side, bool whole>
void winograd_right(const WinogradGradWeightItem& a, const WinogradStrip& s, int64_t c, int n, int64_t width,
                    float* to) {
  constexpr int size = side + 2;
  const int64_t y0 = s.row * side, x0 = s.col * side;
  const int64_t height = at_most(a.out_height - y0, side);
  const float* from = static_cast<const float*>(a.grad.values) + s.image * a.grad.image + y0 * a.grad.row +
                      x0 * a.grad.column + c;
  for (int64_t i = 0; i < s.tiles; ++i, to += width, from += side * a.grad.column) {
    const int64_t columns = at_most(a.out_width - x0 - i * side, side);
    Vec rows[side][size];
    for (int x = 0; x < side; ++x) {
      Vec y[side], m[size];
      for (int r = 0; r < side; ++r)
        y[r] = r < height && x < columns ? load_n(from + r * a.grad.row + x * a.grad.column, whole ? W : n)
                                         : Vec::zero();
      WinogradTransform<side>::grad_output(y, m);
      for (int r = 0; r < size; ++r) rows[x][r] = m[r];
    }
    for (int r = 0; r < size; ++r) {
      Vec y[side], m[size];
      for (int x = 0; x < side; ++x) y[x] = rows[x][r];
      WinogradTransform<side>::grad_output(y, m);
      for (int j = 0; j < size; ++j) m[j].store(to + (r * size + j) * a.right_plane);
    }
  }
}

// Adds the products of so many left channels by N vectors: P at a time for as long as there are so many, then
// fewer.
template <int P, int N>
void add_winograd(Steps<float> steps, int64_t channels, int64_t width, bool first, float* sums) {
  for (; channels >= P && !(P == 12 && channels == 16); channels -= P, steps.left += P, sums += P * width)
    multiply<FloatProduct, P, N, true>(steps, width, first, sums);
  if constexpr (P > 1) {
    constexpr int next = P == 12 ? 8 : P == 6 ? 4 : P / 2;
    if (channels > 0) add_winograd<next, N>(steps, channels, width, first, sums);
  }
}

template <int side>
void run_winograd(const WinogradGradWeightItem& a) {
  constexpr int64_t positions = (side + 2) * (side + 2);
  const int64_t lefts = a.input.channels, rights = a.grad.channels;
  const int64_t width = rights > tile ? panel : tile;
  for (int64_t done = 0; done < a.tiles; done += a.block) {
    const int64_t tiles = at_most(a.tiles - done, a.block);
    for_strips(a.rows, a.cols, a.first + done, tiles, [&](const WinogradStrip& s) {
      for (int64_t c = 0; c < lefts; c += W) {
        const int n = static_cast<int>(at_most(lefts - c, W));
        n == W ? winograd_left<side, true>(a, s, c, n) : winograd_left<side, false>(a, s, c, n);
      }
      for (int64_t c = 0; c < rights; c += W) {
        const int n = static_cast<int>(at_most(rights - c, W));
        float* const to =
            a.right_scratch + c / width * positions * a.right_plane + s.number * width + c % width;
        n == W ? winograd_right<side, true>(a, s, c, n, width, to)
               : winograd_right<side, false>(a, s, c, n, width, to);
      }
    });
    Steps<float> steps = {};
    steps.left_column = a.left_pitch;
    steps.right_column = width;
    steps.groups = steps.rows = steps.slots = 1;
    steps.columns = tiles;
    for (int64_t t = 0; t < positions; ++t)
      for (int64_t c = 0; c < rights; c += 2 * W) {
        const int64_t plane = c / width * positions + t;
        steps.left = a.left_scratch + t * a.left_plane;
        steps.right = a.right_scratch + plane * a.right_plane + c % width;
        float* const sums = a.sums + plane * lefts * width + c % width;
        if (rights - c > W)
          add_winograd<product_cells, 2>(steps, lefts, width, done == 0, sums);
        else
          add_winograd<2 * product_cells, 1>(steps, lefts, width, done == 0, sums);
      }
  }
}

void run_winograd(const WinogradGradWeightItem& a) { a.side == 2 ? run_winograd<2>(a) : run_winograd<4>(a); }

template <int side>
void transform_winograd(const WinogradGradWeightSums& a) {
  constexpr int size = side + 2;
  for (int64_t c = 0; c < a.left_channels; ++c)
    for (int64_t o = 0; o < tile; o += W) {
      const float* from = a.sums + c * a.panel + o;
      Vec rows[size][3];
      for (int r = 0; r < size; ++r) {
        Vec t[size];
        for (int j = 0; j < size; ++j) {
          const float* one = from + (r * size + j) * a.plane;
          t[j] = Vec::load(one);
          for (int64_t part = 1; part < a.parts; ++part)
            t[j] = Vec::add(t[j], Vec::load(one + part * a.part_floats));
        }
        WinogradTransform<side>::grad_weight(t, rows[r]);
      }
      for (int x = 0; x < 3; ++x) {
        Vec t[size], g[3];
        for (int r = 0; r < size; ++r) t[r] = rows[r][x];
        WinogradTransform<side>::grad_weight(t, g);
        for (int r = 0; r < 3; ++r)
          g[r].store(a.taps + r * a.row_floats + x * a.column_floats + c * tile + o);
      }
    }
}

void transform_winograd(const WinogradGradWeightSums& a) {
  a.side == 2 ? transform_winograd<2>(a) : transform_winograd<4>(a);
}

}  // namespace
