// What the weight gradients of conv2d_nhwc_kernels.h share, whether vectors or tiles compute their products.
#pragma once

#include "../conv2d_nhwc_kernels.h"
#include "target.h"
#ifdef __AVX512F__
#include "transpose_avx512.h"
#endif

namespace {

using lasfast::Bf16;
using lasfast::GradWeightItem;
using lasfast::GradWeightResult;
using lasfast::GradWeightSide;

constexpr int64_t tile = 16;

LASFAST_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0

// The positions that a block of sums is over, and where its operands lie: groups, rows, columns. A Value is
// that of one channel at one position, of the images that are together.
template <class Value>
struct Steps {
  const Value *left, *right;  // of the first group, row and column
  int64_t left_group, left_column, right_group, right_row, right_column;
  int64_t groups, rows, columns;
  int64_t slot, slots, left_row, stride;  // rows of the left side lie in a ring: the first one's place in it
};

// The passage of an item's images, in groups, through packing and products. K derives from it, and has
//   Source, Value, together  (values as they are stored, and of how many images one Value is),
//   long_runs  (whether packed positions of the right side follow one another as those of the source do),
//   pack_left_run, pack_right_run(from, image, images, length, to)  (`length` neighbouring values of each
//   image), add(y0, rows, first)  (all products of a band of output rows; `first`: there are no sums yet).
template <class K, class Source, class Value, int64_t together>
class GradWeight {
 public:
  void run() {
    Value* const left = static_cast<Value*>(a_.left_scratch);
    if (a_.padding > 0) __builtin_memset(left, 0, a_.groups * a_.left_group * sizeof(Value));
    bool first = true;
    for (int64_t i = 0; i < a_.images; i += a_.groups * together) {
      groups_ = divide_up(at_most(a_.images - i, a_.groups * together), together);
      int64_t packed = 0;  // rows of the left side
      for (int64_t y = 0; y < a_.out_height; y += a_.band) {
        const int64_t rows = at_most(a_.out_height - y, a_.band);
        const int64_t top = y * a_.stride - a_.padding, bottom = top + (rows - 1) * a_.stride + a_.kernel;
        packed = at_least(packed, top);
        for (; packed < at_most(bottom, a_.left_height); ++packed)
          for (int64_t g = 0; g < groups_; ++g) pack_left(i, g, packed);
        for (int64_t g = 0; g < groups_; ++g) pack_right(i, g, y, rows);
        static_cast<K*>(this)->add(y, rows, first);
        first = false;
      }
    }
  }

 protected:
  // right_column: Values from one position of the right side to the next.
  GradWeight(const GradWeightItem& a, int64_t right_column)
      : a_(a), right_column_(right_column), right_group_(a.band * a.out_width * right_column) {}

  // The steps of row r and columns low .. high of the kernel, for left values from `left` on and right ones
  // from `right` on at each position. They are of no groups where no output position sees input there.
  Steps<Value> steps(int64_t y0, int64_t rows, int64_t r, int64_t low, int64_t high, int64_t left,
                     int64_t right) const {
    const int64_t s = a_.stride, p = a_.padding, channels = a_.left.channels;
    const int64_t ya = at_least(y0, divide_up(at_least(p - r, 0), s));
    const int64_t yb = at_most(y0 + rows, divide_up(at_least(a_.left_height + p - r, 0), s));
    const int64_t xa = divide_up(at_least(p - high, 0), s);
    const int64_t xb = at_most(a_.out_width, divide_up(at_least(a_.left_width + p - low, 0), s));
    Steps<Value> steps = {};
    steps.left_group = a_.left_group;
    steps.left_column = s * channels;
    steps.right_group = right_group_;
    steps.right_row = a_.out_width * right_column_;
    steps.right_column = right_column_;
    steps.left = static_cast<const Value*>(a_.left_scratch) + xa * s * channels + left;
    steps.right = static_cast<const Value*>(a_.right_scratch) + (ya - y0) * steps.right_row +
                  xa * right_column_ + right;
    steps.rows = yb - ya;
    steps.columns = xb - xa;
    steps.slots = a_.left_rows;
    steps.left_row = a_.left_row;
    steps.stride = s;
    if (steps.rows < 1 || steps.columns < 1) return steps;
    steps.groups = groups_;
    steps.slot = slot(ya * s + r - p);
    return steps;
  }

  const GradWeightItem& a_;
  const int64_t right_column_, right_group_;

 private:
  int64_t slot(int64_t row) const { return (row + a_.padding) % a_.left_rows; }

  void pack_left(int64_t image, int64_t g, int64_t row) const {
    const GradWeightSide& side = a_.left;
    const int64_t start = image + g * together;
    const Source* from = static_cast<const Source*>(side.values) + start * side.image + row * side.row;
    Value* to = static_cast<Value*>(a_.left_scratch) + g * a_.left_group + slot(row) * a_.left_row +
                a_.padding * side.channels;
    const int64_t columns = at_most(a_.left_width, (a_.out_width - 1) * a_.stride + a_.kernel - a_.padding);
    const bool dense = side.column == side.channels;
    const int64_t length = side.channels * (dense ? columns : 1);
    for (int64_t x = 0; x < columns; x += dense ? columns : 1)
      static_cast<const K*>(this)->pack_left_run(from + x * side.column, side.image, a_.images - start,
                                                 length, to + x * side.channels);
  }

  void pack_right(int64_t image, int64_t g, int64_t y0, int64_t rows) const {
    const GradWeightSide& side = a_.right;
    const int64_t start = image + g * together;
    const Source* from = static_cast<const Source*>(side.values) + start * side.image;
    Value* to = static_cast<Value*>(a_.right_scratch) + g * right_group_;
    const bool dense = K::long_runs && side.column == side.channels && side.channels % tile == 0;
    const int64_t columns = dense ? a_.out_width : 1;
    for (int64_t y = y0; y < y0 + rows; ++y)
      for (int64_t x = 0; x < a_.out_width; x += columns, to += columns * right_column_)
        static_cast<const K*>(this)->pack_right_run(from + y * side.row + x * side.column, side.image,
                                                    a_.images - start, side.channels * columns, to);
  }

  int64_t groups_ = 0;
};

// ---- what the sums of all parts add up to

// Transposes [16][16] floats.
LASFAST_INLINE void transpose_tile(const float* from, float* to) {
#ifdef __AVX512F__
  __m512i rows[tile];
  for (int64_t i = 0; i < tile; ++i) rows[i] = _mm512_loadu_si512(from + i * tile);
  transpose(rows);
  for (int64_t i = 0; i < tile; ++i) _mm512_storeu_si512(to + i * tile, rows[i]);
#else
  for (int64_t i = 0; i < tile; ++i)
    for (int64_t j = 0; j < tile; ++j) to[j * tile + i] = from[i * tile + j];
#endif
}

LASFAST_INLINE void copy_floats(const float* from, int64_t count, float* to) {
  for (int64_t i = 0; i < count; i += W) {
    const int n = static_cast<int>(at_most(count - i, W));
    store_n(Vec::load(from + i), to + i, n);
  }
}

// Stores the sums of left channels (and columns of the kernel) m * 16 .. + 15 by right channels n * 16 .. +
// 15, of row r of the kernel.
void store_tile(const GradWeightResult& a, int64_t r, int64_t m, int64_t n) {
  const float* sums = a.sums + r * a.left_tiles * a.left_floats + m * a.left_floats + n * a.right_floats;
  const int64_t row = m * tile, right = n * tile, rights = at_most(a.right_channels - right, tile);
  const int64_t lefts = at_most(a.kernel * a.left_channels - row, tile);
  alignas(64) float total[tile * tile] = {}, transposed[tile * tile];
  int64_t step[tile];
  bool neighbours = true;
  for (int64_t i = 0; i < lefts; ++i) {
    for (int64_t j = 0; j < tile; j += W) {
      Vec v = Vec::load(sums + i * a.row_floats + j);
      for (int64_t part = 1; part < a.parts; ++part)
        v = Vec::add(v, Vec::load(sums + part * a.part_floats + i * a.row_floats + j));
      v.store(total + i * tile + j);
    }
    step[i] = (row + i) % a.left_channels * a.left_step + (row + i) / a.left_channels * a.column_step;
    neighbours &= step[i] == step[0] + i;
  }
  float* const to = a.result + r * a.row_step + right * a.right_step;
  if (a.right_step == 1) {
    for (int64_t i = 0; i < lefts; ++i) copy_floats(total + i * tile, rights, to + step[i]);
    return;
  }
  transpose_tile(total, transposed);
  for (int64_t j = 0; j < rights; ++j) {
    const float* const from = transposed + j * tile;
    if (neighbours)
      copy_floats(from, lefts, to + j * a.right_step + step[0]);
    else
      for (int64_t i = 0; i < lefts; ++i) to[j * a.right_step + step[i]] = from[i];
  }
}

// Stores all taps of some channels together, since they may be neighbours in memory.
void store(const GradWeightResult& a, int64_t n) {
  const int64_t together = a.left_channels % tile == 0 ? a.left_channels / tile : a.left_tiles;
  for (int64_t first = 0; first < together; ++first)
    for (int64_t r = 0; r < a.kernel; ++r)
      for (int64_t m = first; m < a.left_tiles; m += together) store_tile(a, r, m, n);
}

}  // namespace
