// The weight gradient of conv2d_nhwc_kernels.h with AVX-512 (BW, VL, BF16) and AMX.
#include "conv2d_nhwc_weight_inl.h"
#include "tile_config_amx.h"

namespace {

constexpr int64_t images_together = 32, tile_sums = 256;

// One channel of the left side. On the right, sixteen of them are a tile of pairs: [16 pairs of images][16
// channels][2].
struct Value {
  Bf16 images[images_together];
};

LASFAST_INLINE __mmask32 first_values(int64_t n) { return n < 32 ? (1u << n) - 1u : ~0u; }

// ---- left side: [values][32 images]

constexpr int64_t copied_values = 256, copied_pitch = copied_values + 32;  // an odd number of lines apart

// Transposes eight values of 32 images: four images share a register, and meet only where they belong
// together.
LASFAST_INLINE void transpose_values(const Bf16* from, int64_t count, Value* to) {
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
    if (i < count) _mm512_store_si512(to + i, t[i]);
}

// Packs `length` neighbouring values of each image. They are copied first: images lie powers of two apart,
// and a line of one would be out of the cache before all of its values are read.
void pack_left_values(const Bf16* from, int64_t image, int64_t images, int64_t length, Value* to) {
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
    for (int64_t c = 0; c < count; c += 8) transpose_values(copy + c, count - c, to + first + c);
  }
}

// ---- right side: [values / 16][16 pairs of images][16 values][2]

// Packs `length` neighbouring values of each image; those of images beyond the last become zero.
void pack_right_values(const Bf16* from, int64_t image, int64_t images, int64_t length, Value* to) {
  const __m512i low = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  const __m512i high = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  for (int64_t c = 0; c < length; c += 32, to += 2 * tile) {
    const __mmask32 mask = first_values(length - c);
    const bool both = length - c > tile;
    for (int64_t i = 0; i < images_together; i += 2) {
      const Bf16* p = from + i * image + c;
      const __m512i a = _mm512_maskz_loadu_epi16(i < images ? mask : 0, p);
      const __m512i b = _mm512_maskz_loadu_epi16(i + 1 < images ? mask : 0, p + image);
      const __m512i even = _mm512_unpacklo_epi16(a, b), odd = _mm512_unpackhi_epi16(a, b);
      // Quarters of `even` hold values 0-3, 8-11, 16-19, 24-27; those of `odd` the others.
      _mm512_store_si512(to + i / 2, _mm512_permutex2var_epi64(even, low, odd));
      if (both) _mm512_store_si512(to + tile + i / 2, _mm512_permutex2var_epi64(even, high, odd));
    }
  }
}

// ---- products

// Adds products to sums: M tiles of left channels, `pitch` floats apart, by N neighbouring tiles of right
// channels. `first`: there are no sums yet.
template <int M, int N>
void multiply(const Steps<Value>& s, int64_t pitch, bool first, float* sums) {
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
      const Value* left = s.left + g * s.left_group + slot * s.left_row;
      const Value* right = s.right + g * s.right_group + y * s.right_row;
      for (int64_t x = 0; x < s.columns; ++x, left += s.left_column, right += s.right_column) {
        _tile_loadd(6, right, 64);
        _tile_loadd(4, left, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (N == 2) {
          _tile_loadd(7, right + tile, 64);
          _tile_dpbf16ps(1, 4, 7);
          if (M == 2) {
            _tile_loadd(5, left + tile, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
          }
        } else {
          if (M > 1) {
            _tile_loadd(5, left + tile, 64);
            _tile_dpbf16ps(1, 5, 6);
          }
          if (M > 2) {
            _tile_loadd(7, left + 2 * tile, 64);
            _tile_dpbf16ps(2, 7, 6);
          }
          if (M > 3) {
            _tile_loadd(4, left + 3 * tile, 64);
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

class TileGradWeight : public GradWeight<TileGradWeight, Bf16, Value, images_together> {
 public:
  static constexpr bool long_runs = true;

  explicit TileGradWeight(const GradWeightItem& a) : GradWeight(a, a.right_tiles * tile) {}

  void pack_left_run(const Bf16* from, int64_t image, int64_t images, int64_t length, Value* to) const {
    pack_left_values(from, image, images, length, to);
  }
  void pack_right_run(const Bf16* from, int64_t image, int64_t images, int64_t length, Value* to) const {
    pack_right_values(from, image, images, length, to);
  }

  // Adds all products of the band of `rows` output rows from y0 on.
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

 private:
  void add_block(int64_t y0, int64_t rows, int64_t r, int64_t m, int64_t left_blocks, int64_t n,
                 bool first) const {
    const int64_t M = at_most(a_.left_tiles - m, left_blocks), N = at_most(a_.right_tiles - n, 2);
    // The columns of the kernel that the block has channels of.
    const int64_t channels = a_.left.channels, low = m * tile / channels;
    const int64_t high = at_most(a_.kernel, ((m + M) * tile - 1) / channels + 1) - 1;
    const Steps<Value> steps = this->steps(y0, rows, r, low, high, m * tile, n * tile);
    if (steps.groups == 0 && !first) return;
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
};

void run(const GradWeightItem& a) {
  configure_tiles();
  TileGradWeight(a).run();
  _tile_release();
}

}  // namespace

namespace lasfast {
const GradWeightKernels LASFAST_TABLE(grad_weight_kernels) = {images_together, sizeof(Value), true,   run,
                                                              store,           nullptr,       nullptr};
}
