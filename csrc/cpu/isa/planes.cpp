// The loops of planes.h.
#include "../planes.h"

#include "target.h"

namespace {

using lasfast::CorrelateArgs;
using lasfast::DotArgs;

// Copies the part of `values` (flat positions q .. q + count) that belongs to outputs.
inline void scatter(const CorrelateArgs& a, float* output, const float* values, int64_t q, int64_t count) {
  int64_t row = q / a.pitch, col = q % a.pitch;
  for (int64_t done = 0; done < count && row < a.rows;) {
    const int64_t run = at_most(a.pitch - col, count - done);
    const int64_t valid = at_most(a.cols - col, run);
    float* to = output + row * a.output_row + col * a.output_col;
    const float* from = values + done;
    if (a.output_col == 1)
      for (int64_t i = 0; i < valid; ++i) to[i] = from[i];
    else
      for (int64_t i = 0; i < valid; ++i) to[i * a.output_col] = from[i];
    done += run;
    col = 0;
    ++row;
  }
}

// Computes M output channels (those past `a.m` repeat the last one and are dropped) by N vectors of
// positions, in registers.
template <int M, int N>
void correlate_tile(const CorrelateArgs& a, int64_t m0, int64_t q) {
  const float* weight[M];
  for (int r = 0; r < M; ++r) weight[r] = a.weight + at_most(m0 + r, a.m - 1) * a.weight_m;
  Vec acc[M][N];
#pragma GCC unroll 16
  for (int r = 0; r < M; ++r)
    for (int v = 0; v < N; ++v) acc[r][v] = Vec::zero();
  for (int64_t c = 0; c < a.channels; ++c) {
    const float* plane = a.planes + c * a.plane_channel + q;
    const int64_t channel = c * a.weight_channel;
    for (int64_t t = 0; t < a.taps; ++t) {
      const float* from = plane + a.tap_plane[t];
      const int64_t offset = channel + a.tap_weight[t];
      Vec x[N];
      for (int v = 0; v < N; ++v) x[v] = Vec::load(from + v * W);
#pragma GCC unroll 16
      for (int r = 0; r < M; ++r) {
        const Vec w = Vec::broadcast(weight[r] + offset);
        for (int v = 0; v < N; ++v) acc[r][v] = Vec::fma(x[v], w, acc[r][v]);
      }
    }
  }
  // (If this loop ended early, the sums would be in memory, where each step above stored them.)
  alignas(64) float values[M][N * W];
#pragma GCC unroll 16
  for (int r = 0; r < M; ++r)
    for (int v = 0; v < N; ++v) acc[r][v].store(values[r] + v * W);
  for (int r = 0; r < M && m0 + r < a.m; ++r)
    scatter(a, a.output + (m0 + r) * a.output_m, values[r], q, N * W);
}

// Computes all positions from q on, in tiles of N vectors, then of fewer.
template <int M, int N>
void correlate_row(const CorrelateArgs& a, int64_t m0, int64_t q, int64_t end) {
  constexpr int64_t step = int64_t{N} * Vec::width;
  while (end - q > step - Vec::width) {
    correlate_tile<M, N>(a, m0, q);
    q += step;
  }
  if constexpr (N > 1)
    if (q < end) correlate_row<M, N / 2>(a, m0, q, end);
}

template <int M, int N>
void correlate_rows(const CorrelateArgs& a, int64_t& m0, int64_t least, int64_t end) {
  for (; a.m - m0 >= least; m0 += M) correlate_row<M, N>(a, m0, 0, end);
}

// One step of a dot tile: `count` floats from x on (all of a vector, unless Partial) of M by N products.
template <int M, int N, bool Partial>
inline void dot_step(const float* l, const float* p, const int64_t* left, const int64_t* right, int64_t x,
                     int count, Vec (&acc)[M][N]) {
  Vec lv[M];
  for (int r = 0; r < M; ++r)
    lv[r] = Partial ? Vec::load_partial(l + left[r] + x, count) : Vec::load(l + left[r] + x);
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) {
    const Vec pv = Partial ? Vec::load_partial(p + right[n] + x, count) : Vec::load(p + right[n] + x);
    for (int r = 0; r < M; ++r) acc[r][n] = Vec::fma(lv[r], pv, acc[r][n]);
  }
}

// Computes one dot product for each row and column of the result, M by N of them at a time. A column is a
// (channel, tap) pair.
template <int M, int N>
void dot_tile(const DotArgs& a, int64_t m0, int64_t column0, int64_t image0, int64_t images) {
  const int64_t columns = a.channels * a.taps;
  int64_t left[M], right[N];
  for (int r = 0; r < M; ++r) left[r] = at_most(m0 + r, a.m - 1) * a.left_m;
  for (int n = 0; n < N; ++n) {
    const int64_t column = at_most(column0 + n, columns - 1);
    right[n] = column / a.taps * a.plane_channel + a.tap_plane[column % a.taps];
  }
  Vec acc[M][N];
#pragma GCC unroll 16
  for (int r = 0; r < M; ++r)
    for (int n = 0; n < N; ++n) acc[r][n] = Vec::zero();
  const float* l = a.left + image0 * a.left_image;
  const float* p = a.planes + image0 * a.plane_image;
  if (!a.row_by_row) {
    for (int64_t image = 0; image < images; ++image, l += a.left_image, p += a.plane_image)
      for (int64_t x = 0; x < a.length; x += W) dot_step<M, N, false>(l, p, left, right, x, W, acc);
  } else {
    for (int64_t image = 0; image < images; ++image, l += a.left_image, p += a.plane_image)
      for (int64_t row = 0; row < a.rows; ++row)
        for (int64_t x = 0; x < a.cols; x += W)
          dot_step<M, N, true>(l, p, left, right, row * a.pitch + x, static_cast<int>(at_most(W, a.cols - x)),
                               acc);
  }
#pragma GCC unroll 16
  for (int r = 0; r < M; ++r) {
    if (m0 + r >= a.m) break;
#pragma GCC unroll 16
    for (int n = 0; n < N; ++n) {
      if (column0 + n >= columns) break;
      const int64_t channel = (column0 + n) / a.taps, tap = (column0 + n) % a.taps;
      float* to = a.result + (m0 + r) * a.result_m + channel * a.result_channel + a.tap_weight[tap];
      const float value = acc[r][n].sum();
      *to = a.accumulate || image0 > 0 ? *to + value : value;
    }
  }
}

template <int M, int N>
void dot_all(const DotArgs& a) {
  // As many images at once as leave the planes that a tile reads in the first-level cache (32 KiB of floats).
  const int64_t fitting = 8192 / (a.length * (M + 2));
  const int64_t images = fitting < 1 ? 1 : fitting;
  for (int64_t image = 0; image < a.images; image += images)
    for (int64_t m0 = 0; m0 < a.m; m0 += M)
      for (int64_t column = 0; column < a.channels * a.taps; column += N)
        dot_tile<M, N>(a, m0, column, image, at_most(images, a.images - image));
}

// The sizes of tiles depend on how many registers there are. (Those of x86-64 were tried out.)
#if defined(LASFAST_FOR_AVX512)
constexpr int rows_of_dots = 4, columns_of_dots = 6, columns_of_one_row = 9;

void correlate(const CorrelateArgs& a) {
  const int64_t end = (a.rows - 1) * a.pitch + a.cols;
  int64_t m0 = 0;
  correlate_rows<8, 3>(a, m0, 5, end);
  correlate_rows<4, 6>(a, m0, 2, end);
  correlate_rows<1, 8>(a, m0, 1, end);
}
#elif defined(LASFAST_FOR_NEON)
constexpr int rows_of_dots = 4, columns_of_dots = 5, columns_of_one_row = 9;

void correlate(const CorrelateArgs& a) {
  const int64_t end = (a.rows - 1) * a.pitch + a.cols;
  int64_t m0 = 0;
  correlate_rows<8, 2>(a, m0, 5, end);
  correlate_rows<4, 4>(a, m0, 2, end);
  correlate_rows<1, 8>(a, m0, 1, end);
}
#else
constexpr int rows_of_dots = 3, columns_of_dots = 3, columns_of_one_row = isa == lasfast::Isa::avx2 ? 9 : 6;

void correlate(const CorrelateArgs& a) {
  const int64_t end = (a.rows - 1) * a.pitch + a.cols;
  int64_t m0 = 0;
  if constexpr (isa == lasfast::Isa::avx2) correlate_rows<6, 2>(a, m0, 5, end);
  correlate_rows<4, 2>(a, m0, 2, end);
  correlate_rows<1, 8>(a, m0, 1, end);
}
#endif

void dot(const DotArgs& a) {
  a.m == 1 ? dot_all<1, columns_of_one_row>(a) : dot_all<rows_of_dots, columns_of_dots>(a);
}

}  // namespace

namespace lasfast {
const PlaneKernels LASFAST_TABLE(plane_kernels) = {rows_of_dots, correlate, dot};
}
