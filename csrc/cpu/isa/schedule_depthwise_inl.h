// Depthwise convolutions over cells (see schedule_kernels.h), one vector of channels after the other, so that
// its cells stay near; part of schedule_kernels.cpp.
//
// Cells are fp32, and padding is among them. A tile of outputs, some columns of some rows, stays in registers
// while the cells under it pass: each is loaded once for a row of outputs. Rows of padding are skipped where
// all rows of a tile have them, columns of padding at both ends of a row where it is as wide as the kernel
// reaches: of 8x8 images, a kernel of 7x7 has a third of its products there.

namespace {

// So many vectors of sums are a tile, which leaves registers for a row of taps and a cell.
constexpr int depthwise_sums = isa == lasfast::Isa::generic || isa == lasfast::Isa::avx2 ? 8 : 16;

// Fills the padded rows under `rows` output rows from y0 on. `bordered`: the padding is there already.
template <bool clamp, bool whole, class T>
void fill_channels(const ItemArgs& a, int64_t y0, int64_t rows, int64_t c, int n, bool bordered,
                   float* cells) {
  const int64_t columns = a.cells.cols, channels = a.in_channels;
  const int64_t inside = at_least(0, at_most(a.in_width, columns - a.padding));
  const Transform in(a.in, c, n);
  const T* input = static_cast<const T*>(a.input) + c;
  const int64_t first = y0 * a.stride - a.padding;  // row of the input
  for (int64_t r = 0; r < (rows - 1) * a.stride + a.kernel; ++r, cells += columns * W) {
    const int64_t y = first + r;
    const bool padding = y < 0 || y >= a.in_height;
    if (!bordered) {
      const int64_t left = padding ? columns : at_most(a.padding, columns);
      for (int64_t x = 0; x < left; ++x) Vec::zero().store(cells + x * W);
      for (int64_t x = a.padding + inside; x < columns; ++x) Vec::zero().store(cells + x * W);
    }
    if (!padding)
      fill_vectors<clamp, whole>(input + y * a.in_width * channels, channels, cells + a.padding * W, W,
                                 inside, n, W, in);
  }
}

// Sums `high` rows of `wide` outputs with the taps of some rows, the first of which are at `cells`. Columns
// up to `left` and from `right` on are padding.
template <int wide, int high, int kernel, int stride, int left, int right>
void depthwise_tile(const float* cells, int64_t row, int64_t taps, const float* weight, float* acc,
                    int64_t acc_row) {
  Vec sum[high][wide];
  for (int q = 0; q < high; ++q)
    for (int p = 0; p < wide; ++p) sum[q][p] = Vec::zero();
  for (int64_t r = 0; r < taps; ++r, cells += row, weight += kernel * W) {
    Vec w[kernel];
    for (int i = 0; i < kernel; ++i) w[i] = Vec::load(weight + i * W);
#pragma GCC unroll 32
    for (int x = left; x < right; ++x) {
#pragma GCC unroll 4
      for (int q = 0; q < high; ++q) {
        const Vec v = Vec::load(cells + q * stride * row + x * W);
#pragma GCC unroll 16
        for (int i = 0; i < kernel; ++i)
          if (x >= i && (x - i) % stride == 0 && (x - i) / stride < wide)
            sum[q][(x - i) / stride] = Vec::fma(v, w[i], sum[q][(x - i) / stride]);
      }
    }
  }
  for (int q = 0; q < high; ++q)
    for (int p = 0; p < wide; ++p) sum[q][p].store(acc + q * acc_row + p * W);
}

// The same for one output and any kernel.
inline void depthwise_output(const float* cells, int64_t row, int64_t taps, int64_t kernel,
                             const float* weight, float* acc) {
  Vec sum = Vec::zero();
  for (int64_t r = 0; r < taps; ++r, cells += row, weight += kernel * W)
    for (int64_t i = 0; i < kernel; ++i)
      sum = Vec::fma(Vec::load(cells + i * W), Vec::load(weight + i * W), sum);
  sum.store(acc);
}

// Some rows of outputs, the first of which has its first row of taps at `cells`, and the taps that are
// summed.
struct DepthwiseRows {
  const float* cells;
  int64_t row, width, kernel, stride;  // row: from one to the next
  int64_t taps;                        // rows of them
  bool half;                           // whether half a kernel of padding is on both sides
  const float* weight;
  float* acc;  // [rows, width, W]
};

// The last tile of a row overlaps the one before.
template <int wide, int high, int kernel, int stride>
void depthwise_rows(const DepthwiseRows& a) {
  constexpr int end = (wide - 1) * stride + kernel, left = kernel / 2, right = end - kernel / 2;
  const bool half = stride == 1 && a.half;
  for (int64_t x = 0; x < a.width; x += wide) {
    const int64_t at = at_most(x, a.width - wide);
    const float* cells = a.cells + at * stride * W;
    float* acc = a.acc + at * W;
    const bool first = half && at == 0, last = half && at + wide == a.width;
    const auto tile = !first ? (last ? depthwise_tile<wide, high, kernel, stride, 0, right>
                                     : depthwise_tile<wide, high, kernel, stride, 0, end>)
                             : (last ? depthwise_tile<wide, high, kernel, stride, left, right>
                                     : depthwise_tile<wide, high, kernel, stride, left, end>);
    tile(cells, a.row, a.taps, a.weight, acc, a.width * W);
  }
}
inline void depthwise_row(const DepthwiseRows& a) {
  for (int64_t x = 0; x < a.width; ++x)
    depthwise_output(a.cells + x * a.stride * W, a.row, a.taps, a.kernel, a.weight, a.acc + x * W);
}

// A way to sum so many rows at a time.
struct DepthwiseWay {
  int64_t high;
  void (*run)(const DepthwiseRows&);
};

template <int kernel, int stride>
DepthwiseWay depthwise_way(int64_t width, int64_t height) {
  constexpr int wide = depthwise_sums / 2, narrow = depthwise_sums / 4;
  if (width >= wide && height >= 2) return {2, depthwise_rows<wide, 2, kernel, stride>};
  if (width >= narrow && height >= 4) return {4, depthwise_rows<narrow, 4, kernel, stride>};
  return {1, depthwise_row};
}

inline DepthwiseWay depthwise_way(const ItemArgs& a, int64_t height) {
  if (a.stride == 1) {
    if (a.kernel == 3) return depthwise_way<3, 1>(a.out_width, height);
    if (a.kernel == 5) return depthwise_way<5, 1>(a.out_width, height);
    if (a.kernel == 7) return depthwise_way<7, 1>(a.out_width, height);
  }
  if (a.stride == 2) {
    if (a.kernel == 3) return depthwise_way<3, 2>(a.out_width, height);
    if (a.kernel == 5) return depthwise_way<5, 2>(a.out_width, height);
    if (a.kernel == 7) return depthwise_way<7, 2>(a.out_width, height);
  }
  return {1, depthwise_row};
}

template <class T, class U>
void depthwise(const ItemArgs& a) {
  float* const cells = static_cast<float*>(a.cell_scratch);
  float* const acc = cells + a.cells.room;
  const int64_t row = a.cells.cols * W, taps = a.kernel * a.kernel;
  const bool clamps = is_clamp(a.in.activation), once = a.cells.band == a.out_height;
  for (int64_t c = 0; c < a.out_channels; c += W) {
    const int n = static_cast<int>(at_most(a.out_channels - c, W));
    const auto fill = !clamps  ? fill_channels<false, false, T>
                      : n == W ? fill_channels<true, true, T>
                               : fill_channels<true, false, T>;
    for (int64_t y0 = 0; y0 < a.out_height; y0 += a.cells.band) {
      const int64_t rows = at_most(a.out_height - y0, a.cells.band);
      fill(a, y0, rows, c, n, c > 0 && once, cells);
      const DepthwiseWay way = depthwise_way(a, rows);
      for (int64_t y = 0; y < rows; y += way.high) {
        const int64_t at = at_most(y, rows - way.high), top = (y0 + at) * a.stride - a.padding;
        const int64_t first = at_most(at_least(0, -(top + (way.high - 1) * a.stride)), a.kernel);
        const int64_t last = at_least(first, at_most(a.kernel, a.in_height - top));
        const int64_t known = y - at, fresh = at_most(rows - y, way.high);  // rows of acc
        way.run({cells + (at * a.stride + first) * row, row, a.out_width, a.kernel, a.stride, last - first,
                 a.padding == a.kernel / 2,
                 static_cast<const float*>(a.weight) + c * taps + first * a.kernel * W, acc});
        finish<T, U>(a, acc + known * a.out_width * W, W, (y0 + y) * a.out_width, 0, fresh * a.out_width, c,
                     y0 + y == 0);
      }
    }
  }
}

}  // namespace
