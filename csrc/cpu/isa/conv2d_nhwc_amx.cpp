// The weight gradient of conv2d_nhwc_kernels.h with AVX-512 (BW, VL, BF16) and AMX.
#include "../conv2d_nhwc_kernels.h"
#include "tile_config_amx.h"
#include "transpose_avx512.h"
#include "vec_avx512.h"

namespace {

using lasfast::Bf16;
using lasfast::GradWeightItem;
using lasfast::GradWeightResult;
using lasfast::GradWeightSide;
using lasfast::images_together;

constexpr int64_t tile = 16, tile_sums = 256, right_tile = tile * images_together;

LASFAST_INLINE int64_t at_most(int64_t value, int64_t bound) { return value < bound ? value : bound; }
LASFAST_INLINE int64_t at_least(int64_t value, int64_t bound) { return value > bound ? value : bound; }
LASFAST_INLINE int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }  // a >= 0
LASFAST_INLINE __mmask32 first_values(int64_t n) { return n < 32 ? (1u << n) - 1u : ~0u; }

// ---- left side: [values][32 images]

constexpr int64_t copied_values = 256, copied_pitch = copied_values + 32;  // an odd number of lines apart

// Eight values of 32 images: four images share a register, and meet only where they belong together.
LASFAST_INLINE void transpose_values(const Bf16* from, int64_t count, Bf16* to) {
  __m512i v[8], t[8];
  for (int i = 0; i < 8; ++i) {
    const auto load = [&](int64_t image) __attribute__((always_inline)) {
      return _mm_load_si128(reinterpret_cast<const __m128i*>(from + image * copied_pitch));
    };
    v[i] = _mm512_castsi128_si512(load(i));
    v[i] = _mm512_inserti32x4(v[i], load(i + 8), 1);
    v[i] = _mm512_inserti32x4(v[i], load(i + 16), 2);
    v[i] = _mm512_inserti32x4(v[i], load(i + 24), 3);
  }
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm512_unpacklo_epi16(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi16(v[i], v[i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int half = 0; half < 2; ++half) {
      v[i + 2 * half] = _mm512_unpacklo_epi32(t[i + half], t[i + half + 2]);
      v[i + 2 * half + 1] = _mm512_unpackhi_epi32(t[i + half], t[i + half + 2]);
    }
  for (int i = 0; i < 4; ++i) {
    t[2 * i] = _mm512_unpacklo_epi64(v[i], v[i + 4]);
    t[2 * i + 1] = _mm512_unpackhi_epi64(v[i], v[i + 4]);
  }
  for (int i = 0; i < 8; ++i)
    if (i < count) _mm512_store_si512(to + i * images_together, t[i]);
}

// `length` neighbouring values of each image. They are copied first: images lie powers of two apart, and a
// line of one would be out of the cache before all of its values are read.
void pack_left_run(const Bf16* from, int64_t image, int64_t images, int64_t length, Bf16* to) {
  alignas(64) Bf16 copy[images_together * copied_pitch];
  for (int64_t first = 0; first < length; first += copied_values) {
    const int64_t count = at_most(length - first, copied_values);
    for (int64_t i = 0; i < images_together; ++i)
      for (int64_t c = 0; c < count; c += 32) {
        _mm512_store_si512(
            copy + i * copied_pitch + c,
            i < images ? _mm512_maskz_loadu_epi16(first_values(count - c), from + i * image + first + c)
                       : _mm512_setzero_si512());
      }
    for (int64_t c = 0; c < count; c += 8)
      transpose_values(copy + c, count - c, to + (first + c) * images_together);
  }
}

// ---- right side: [values / 16][16 pairs of images][16 values][2]

// `length` neighbouring values of each image, of which those beyond the last become zero.
void pack_right_run(const Bf16* from, int64_t image, int64_t images, int64_t length, Bf16* to) {
  const __m512i low = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  const __m512i high = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  for (int64_t c = 0; c < length; c += 32, to += 2 * right_tile) {
    const __mmask32 mask = first_values(length - c);
    const bool both = length - c > tile;
    for (int64_t i = 0; i < images_together; i += 2) {
      const Bf16* p = from + i * image + c;
      const __m512i a = _mm512_maskz_loadu_epi16(i < images ? mask : 0, p);
      const __m512i b = _mm512_maskz_loadu_epi16(i + 1 < images ? mask : 0, p + image);
      const __m512i even = _mm512_unpacklo_epi16(a, b), odd = _mm512_unpackhi_epi16(a, b);
      // Quarters of `even` hold values 0-3, 8-11, 16-19, 24-27; those of `odd` the others.
      _mm512_store_si512(to + i * tile, _mm512_permutex2var_epi64(even, low, odd));
      if (both) _mm512_store_si512(to + right_tile + i * tile, _mm512_permutex2var_epi64(even, high, odd));
    }
  }
}

// ---- products

// The positions that a block of sums is over, and where its operands lie: groups, rows, columns.
struct Steps {
  const Bf16 *left, *right;  // of the first group, row and column
  int64_t left_group, left_column, right_group, right_row, right_column;
  int64_t groups, rows, columns;
  int64_t slot, slots, left_row, stride;  // rows of the left side lie in a ring: the first one's place in it
};

// sums: M tiles of left channels, `pitch` floats apart, by N neighbouring tiles of right channels; `first`:
// there are none yet.
template <int M, int N>
void multiply(const Steps& s, int64_t pitch, bool first, float* sums) {
  static_assert(M * N <= 4 && (M <= 2 || N == 1), "fits eight tiles");
  constexpr int count = M * N;
  const auto at = [&](int i)
                      __attribute__((always_inline)) { return sums + i / N * pitch + i % N * tile_sums; };
  if (first) {
    _tile_zero(0);
    if (count > 1) _tile_zero(1);
    if (count > 2) _tile_zero(2);
    if (count > 3) _tile_zero(3);
  } else {
    _tile_loadd(0, at(0), 64);
    if (count > 1) _tile_loadd(1, at(1), 64);
    if (count > 2) _tile_loadd(2, at(2), 64);
    if (count > 3) _tile_loadd(3, at(3), 64);
  }
  for (int64_t g = 0; g < s.groups; ++g)
    for (int64_t y = 0, slot = s.slot; y < s.rows; ++y, slot += s.stride) {
      if (slot >= s.slots) slot -= s.slots;
      const Bf16* left = s.left + g * s.left_group + slot * s.left_row;
      const Bf16* right = s.right + g * s.right_group + y * s.right_row;
      for (int64_t x = 0; x < s.columns; ++x, left += s.left_column, right += s.right_column) {
        _tile_loadd(6, right, 64);
        _tile_loadd(4, left, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (N == 2) {
          _tile_loadd(7, right + right_tile, 64);
          _tile_dpbf16ps(1, 4, 7);
          if (M == 2) {
            _tile_loadd(5, left + right_tile, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
          }
        } else {
          if (M > 1) {
            _tile_loadd(5, left + right_tile, 64);
            _tile_dpbf16ps(1, 5, 6);
          }
          if (M > 2) {
            _tile_loadd(7, left + 2 * right_tile, 64);
            _tile_dpbf16ps(2, 7, 6);
          }
          if (M > 3) {
            _tile_loadd(4, left + 3 * right_tile, 64);
            _tile_dpbf16ps(3, 4, 6);
          }
        }
      }
    }
  _tile_stored(0, at(0), 64);
  if (count > 1) _tile_stored(1, at(1), 64);
  if (count > 2) _tile_stored(2, at(2), 64);
  if (count > 3) _tile_stored(3, at(3), 64);
}

class GradWeight {
 public:
  explicit GradWeight(const GradWeightItem& a)
      : a_(a),
        left_group_(a.left_rows * a.left_row),
        right_column_(a.right_tiles * right_tile),
        right_group_(a.band * a.out_width * right_column_) {}

  void run() {
    configure_tiles();
    if (a_.padding > 0) __builtin_memset(a_.left_scratch, 0, a_.groups * left_group_ * sizeof(Bf16));
    bool first = true;
    for (int64_t i = 0; i < a_.images; i += a_.groups * images_together) {
      groups_ = divide_up(at_most(a_.images - i, a_.groups * images_together), images_together);
      int64_t packed = 0;  // rows of the left side
      for (int64_t y = 0; y < a_.out_height; y += a_.band) {
        const int64_t rows = at_most(a_.out_height - y, a_.band);
        const int64_t top = y * a_.stride - a_.padding, bottom = top + (rows - 1) * a_.stride + a_.kernel;
        packed = at_least(packed, top);
        for (; packed < at_most(bottom, a_.left_height); ++packed)
          for (int64_t g = 0; g < groups_; ++g) pack_left(i, g, packed);
        for (int64_t g = 0; g < groups_; ++g) pack_right(i, g, y, rows);
        add(y, rows, first);
        first = false;
      }
    }
    _tile_release();
  }

 private:
  int64_t slot(int64_t row) const { return (row + a_.padding) % a_.left_rows; }

  void pack_left(int64_t image, int64_t g, int64_t row) const {
    const GradWeightSide& side = a_.left;
    const int64_t start = image + g * images_together;
    const Bf16* from = side.values + start * side.image + row * side.row;
    Bf16* to = a_.left_scratch + g * left_group_ + slot(row) * a_.left_row +
               a_.padding * side.channels * images_together;
    const int64_t columns = at_most(a_.left_width, (a_.out_width - 1) * a_.stride + a_.kernel - a_.padding);
    const bool dense = side.column == side.channels;
    const int64_t length = side.channels * (dense ? columns : 1);
    for (int64_t x = 0; x < columns; x += dense ? columns : 1)
      pack_left_run(from + x * side.column, side.image, a_.images - start, length,
                    to + x * side.channels * images_together);
  }

  void pack_right(int64_t image, int64_t g, int64_t y0, int64_t rows) const {
    const GradWeightSide& side = a_.right;
    const int64_t start = image + g * images_together;
    Bf16* to = a_.right_scratch + g * right_group_;
    const bool dense = side.column == side.channels && side.channels % tile == 0;
    const int64_t together = dense ? a_.out_width : 1;
    for (int64_t y = y0; y < y0 + rows; ++y)
      for (int64_t x = 0; x < a_.out_width; x += together, to += together * right_column_)
        pack_right_run(side.values + start * side.image + y * side.row + x * side.column, side.image,
                       a_.images - start, side.channels * together, to);
  }

  // All products of the band of `rows` output rows from y0 on.
  void add(int64_t y0, int64_t rows, bool first) const {
    // The panel of the side that has fewer tiles stays in the first-level cache, while the other's pass.
    const bool left_outside = a_.left_tiles < a_.right_tiles;
    const int64_t left_blocks = a_.right_tiles == 1 ? 4 : 2;
    for (int64_t r = 0; r < a_.kernel; ++r) {
      if (left_outside) {
        for (int64_t m = 0; m < a_.left_tiles; m += left_blocks)
          for (int64_t n = 0; n < a_.right_tiles; n += 2) add_block(y0, rows, r, m, left_blocks, n, first);
      } else {
        for (int64_t n = 0; n < a_.right_tiles; n += 2)
          for (int64_t m = 0; m < a_.left_tiles; m += left_blocks)
            add_block(y0, rows, r, m, left_blocks, n, first);
      }
    }
  }

  void add_block(int64_t y0, int64_t rows, int64_t r, int64_t m, int64_t left_blocks, int64_t n,
                 bool first) const {
    const int64_t s = a_.stride, p = a_.padding, channels = a_.left.channels;
    const int64_t M = at_most(a_.left_tiles - m, left_blocks), N = at_most(a_.right_tiles - n, 2);
    // Columns of the kernel that the block has channels of, and output positions that see input there.
    const int64_t low = m * tile / channels,
                  high = at_most(a_.kernel, (((m + M) * tile - 1) / channels) + 1) - 1;
    const int64_t ya = at_least(y0, divide_up(at_least(p - r, 0), s));
    const int64_t yb = at_most(y0 + rows, divide_up(at_least(a_.left_height + p - r, 0), s));
    const int64_t xa = divide_up(at_least(p - high, 0), s);
    const int64_t xb = at_most(a_.out_width, divide_up(at_least(a_.left_width + p - low, 0), s));
    Steps steps = {};
    steps.left_group = left_group_;
    steps.left_column = s * channels * images_together;
    steps.right_group = right_group_;
    steps.right_row = a_.out_width * right_column_;
    steps.right_column = right_column_;
    steps.left = a_.left_scratch + (xa * s * channels + m * tile) * images_together;
    steps.right = a_.right_scratch + (ya - y0) * steps.right_row + xa * right_column_ + n * right_tile;
    steps.groups = groups_;
    steps.rows = yb - ya;
    steps.columns = xb - xa;
    steps.slots = a_.left_rows;
    steps.left_row = a_.left_row;
    steps.stride = s;
    if (steps.rows > 0 && steps.columns > 0) {
      steps.slot = slot(ya * s + r - p);
    } else {
      steps.groups = 0;
      if (!first) return;
    }
    const int64_t pitch = a_.right_tiles * tile_sums;
    float* const sums = a_.sums + ((r * a_.left_tiles + m) * a_.right_tiles + n) * tile_sums;
    switch (M * 2 + N) {
      case 3:
        return multiply<1, 1>(steps, pitch, first, sums);
      case 4:
        return multiply<1, 2>(steps, pitch, first, sums);
      case 5:
        return multiply<2, 1>(steps, pitch, first, sums);
      case 6:
        return multiply<2, 2>(steps, pitch, first, sums);
      case 7:
        return multiply<3, 1>(steps, pitch, first, sums);
      default:
        return multiply<4, 1>(steps, pitch, first, sums);
    }
  }

  const GradWeightItem& a_;
  const int64_t left_group_, right_column_, right_group_;
  int64_t groups_ = 0;
};

void run(const GradWeightItem& a) { GradWeight(a).run(); }

// Left channels (and columns of the kernel) m * 16 .. + 15 by right channels n * 16 .. + 15, of row r.
void store_tile(const GradWeightResult& a, int64_t r, int64_t m, int64_t n) {
  const float* sums = a.sums + ((r * a.left_tiles + m) * a.right_tiles + n) * tile_sums;
  const int64_t row = m * tile, right = n * tile, rights = at_most(a.right_channels - right, tile);
  const int64_t lefts = at_most(a.kernel * a.left_channels - row, tile);
  __m512i total[tile];
  int64_t step[tile];
  bool neighbours = true;
  for (int64_t i = 0; i < tile; ++i) {
    Vec v = Vec::load(sums + i * tile);
    for (int64_t part = 1; part < a.parts; ++part)
      v = Vec::add(v, Vec::load(sums + part * a.part_floats + i * tile));
    total[i] = _mm512_castps_si512(v.v);
    step[i] = (row + i) % a.left_channels * a.left_step + (row + i) / a.left_channels * a.column_step;
    neighbours &= i >= lefts || step[i] == step[0] + i;
  }
  float* const to = a.result + r * a.row_step + right * a.right_step;
  if (a.right_step == 1) {
    for (int64_t i = 0; i < lefts; ++i)
      Vec{_mm512_castsi512_ps(total[i])}.store_partial(to + step[i], static_cast<int>(rights));
    return;
  }
  transpose(total);
  if (neighbours) {
    for (int64_t j = 0; j < rights; ++j)
      Vec{_mm512_castsi512_ps(total[j])}.store_partial(to + j * a.right_step + step[0],
                                                       static_cast<int>(lefts));
    return;
  }
  for (int64_t j = 0; j < rights; ++j) {
    alignas(64) float some[tile];
    _mm512_store_si512(some, total[j]);
    for (int64_t i = 0; i < lefts; ++i) to[j * a.right_step + step[i]] = some[i];
  }
}

// All taps of some channels together, since they may be neighbours in memory.
void store(const GradWeightResult& a, int64_t n) {
  const int64_t together = a.left_channels % tile == 0 ? a.left_channels / tile : a.left_tiles;
  for (int64_t first = 0; first < together; ++first)
    for (int64_t r = 0; r < a.kernel; ++r)
      for (int64_t m = first; m < a.left_tiles; m += together) store_tile(a, r, m, n);
}

}  // namespace

namespace lasfast {
const GradWeightKernels amx_grad_weight_kernels = {run, store};
}
