// The product of two tiles in shared memory whose rows are k, A [k, rows] and B [k, columns], added to sums
// in registers: by tensor cores (bf16 and TF32; a warp at a time, or a warpgroup), or exactly in fp32. A step
// has as many elements of k as 64 bytes hold, 32 or 16; 64, for warpgroups.
//
// The pieces of 16 bytes in a row are permuted, so that what is read together lies in different banks. What
// is multiplied as TF32 has been rounded.
//
// Each warp or warpgroup has a patch of the sums, WM x WN, in the layout of conv_products.cuh.
#pragma once

#include "block.h"
#include "conv_mainloop.cuh"
#include "conv_products.cuh"
#include "device.cuh"

namespace lasfast {

// How a tile of `width` elements a row lies for warps: byte `at` of row k is at offset(k, at). Rows turn
// their pieces by so much that those read together lie in all banks: two pieces of four rows in fp32, one of
// eight rows in bf16. Every eighth row turns alike.
template <typename T, int width>
struct WarpLayout {
  static constexpr int row_bytes = width * static_cast<int>(sizeof(T));

  LASFAST_DEVICE static int offset(int k, int at) {
    constexpr int line = row_bytes < 128 ? row_bytes : 128;
    const int turn = k * (line / 8) * (sizeof(T) == 4 ? 2 : 1) & (line - 16);
    return k * row_bytes + (at ^ turn);
  }
};

// The same for warpgroups: 64 elements of all rows of a step, then the next 64.
template <typename T, int width>
struct WarpgroupLayout {
  static constexpr int row_bytes = 128, leading = 64 * row_bytes;

  LASFAST_DEVICE static int offset(int k, int at) {
    return at / row_bytes * leading + k * row_bytes + (at % row_bytes ^ k % 8 * 16);
  }
};

// A warp's product by tensor cores, of tiles that are BM and BN wide. Where these are fp32, which no
// instruction turns, a product takes rows 0 to 7 of 16 to be the even ones, so that a thread reads two at
// once.
template <typename T, int BM, int BN, int WM, int WN>
struct TransposedTensorProduct : TensorSums<T, WM, WN> {
  template <int width>
  using Layout = WarpLayout<T, width>;
  static constexpr const char* name = sizeof(T) == 4 ? "tf32" : "bf16";
  static constexpr int step_bytes = conv_step_bytes;
  static constexpr bool warpgroups = false;
  static constexpr int in_flight = 0;
  LASFAST_DEVICE static void publish() {}
  LASFAST_DEVICE void finish() {}

  LASFAST_DEVICE TransposedTensorProduct()
      : rows_(place<BM, true>(Geometry<BM, BN>::first_row())),
        columns_(place<BN, false>(Geometry<BM, BN>::first_column())) {}

  LASFAST_DEVICE void add(const char* a, const char* b, int, int) {
    constexpr int depth = conv_step_bytes / sizeof(T), each = sizeof(T) == 4 ? 8 : 16;
    LASFAST_UNROLL
    for (int k = 0; k < depth; k += each) {
      uint32_t rows[WM / 16][4], columns[WN / 16][4];
      LASFAST_UNROLL
      for (int m = 0; m < WM / 16; ++m) load<BM, true>(rows[m], a + k * BM * item, rows_, m);
      LASFAST_UNROLL
      for (int n = 0; n < WN / 16; ++n) load<BN, false>(columns[n], b + k * BN * item, columns_, n);
      this->multiply(rows, columns);
    }
  }

  LASFAST_DEVICE void store(float* to, int pitch) const {
    if constexpr (sizeof(T) == 2) {
      Sums::store(to, pitch);
    } else {
      const int lane = device::thread_index() % 32;
      LASFAST_UNROLL
      for (int m = 0; m < WM / 16; ++m) LASFAST_UNROLL
      for (int n = 0; n < WN / 8; ++n) LASFAST_UNROLL
      for (int i = 0; i < 4; ++i)
        to[(16 * m + lane / 4 * 2 + i / 2) * pitch + 8 * n + lane % 4 * 2 + i % 2] = this->sum[m][n][i];
    }
  }

 private:
  using Sums = TensorSums<T, WM, WN>;
  static constexpr int item = sizeof(T), line = 128;  // bytes
  int rows_, columns_;  // where this thread reads of the first group of 16 rows or columns

  // The place of a row of a matrix, of which there are halves of the group, then of k, and of columns halves
  // of k, then of the group; or of the first of some elements.
  template <int width, bool of_rows>
  LASFAST_DEVICE static int place(int first) {
    const int lane = device::thread_index() % 32, low = lane / 8 % 2, high = lane / 16;
    if constexpr (sizeof(T) == 2) {
      const int k = lane % 8 + (of_rows ? high : low) * 8, m = first + (of_rows ? low : high) * 8;
      return device::settled(Layout<width>::offset(k, m * item));
    } else {
      return device::settled(Layout<width>::offset(lane % 4, (first + lane / 4 * (of_rows ? 2 : 1)) * item));
    }
  }
  // Where a place is in another half of a group and another group: pieces are turned within a line.
  template <int group_bytes>
  LASFAST_DEVICE static int move(int place, int group, int half) {
    const int bytes = group * group_bytes + half * group_bytes / 2;
    return (place ^ bytes % line) + bytes / line * line;
  }
  template <int width, bool of_rows>
  LASFAST_DEVICE static void load(uint32_t (&to)[4], const char* tile, int place, int group) {
    if constexpr (sizeof(T) == 2) {
      device::load_matrix_transposed(to, tile + move<16 * item>(place, group, 0));
    } else {
      LASFAST_UNROLL
      for (int k = 0; k < 2; ++k) {  // halves of it
        const char* const at = tile + 4 * k * width * item;
        if constexpr (of_rows) {
          const auto pair = load<Pair>(at + move<16 * item>(place, group, 0));
          to[2 * k] = pair.first, to[2 * k + 1] = pair.second;
        } else {
          LASFAST_UNROLL
          for (int half = 0; half < 2; ++half)
            to[2 * half + k] = load<uint32_t>(at + move<16 * item>(place, group, half));
        }
      }
    }
  }
  struct alignas(8) Pair {
    uint32_t first, second;
  };
  template <typename Words>
  LASFAST_DEVICE static Words load(const char* at) {
    return *reinterpret_cast<const Words*>(at);
  }
};

// The product in fp32: one thread adds all of a sum, in rising k. It has four neighbouring rows and columns
// at a time.
template <typename T, int BM, int BN, int WM, int WN>
struct TransposedExactProduct {
  template <int width>
  using Layout = WarpLayout<T, width>;
  static_assert(sizeof(T) == 4, "bf16 has tensor cores everywhere");
  static_assert(WM % 32 == 0 && WN % 16 == 0, "each lane has whole pieces");
  static constexpr const char* name = "exact";
  static constexpr int step_bytes = conv_step_bytes;
  static constexpr bool tensor_cores = false;
  static constexpr bool warpgroups = false;
  static constexpr int in_flight = 0;
  float sum[WM / 8][WN / 4] = {};

  LASFAST_DEVICE static void publish() {}
  LASFAST_DEVICE void finish() {}

  LASFAST_DEVICE TransposedExactProduct() {
    const int lane = device::thread_index() % 32;
    rows_ = device::settled((Geometry<BM, BN>::first_row() + lane % 8 * 4) * item);
    columns_ = device::settled((Geometry<BM, BN>::first_column() + lane / 8 * 4) * item);
  }

  LASFAST_DEVICE void add(const char* a, const char* b, int, int) {
    LASFAST_UNROLL
    for (int k = 0; k < conv_step_bytes / 4; ++k) {
      float rows[WM / 8], columns[WN / 4];
      LASFAST_UNROLL
      for (int m = 0; m < WM / 32; ++m) load<BM>(rows + 4 * m, a, k, rows_ + 32 * m * item);
      LASFAST_UNROLL
      for (int n = 0; n < WN / 16; ++n) load<BN>(columns + 4 * n, b, k, columns_ + 16 * n * item);
      LASFAST_UNROLL
      for (int m = 0; m < WM / 8; ++m) LASFAST_UNROLL
      for (int n = 0; n < WN / 4; ++n) sum[m][n] += rows[m] * columns[n];
    }
  }

  LASFAST_DEVICE void store(float* to, int pitch) const {
    const int lane = device::thread_index() % 32;
    LASFAST_UNROLL
    for (int m = 0; m < WM / 8; ++m) LASFAST_UNROLL
    for (int n = 0; n < WN / 4; ++n)
      to[(m / 4 * 32 + lane % 8 * 4 + m % 4) * pitch + n / 4 * 16 + lane / 8 * 4 + n % 4] = sum[m][n];
  }

 private:
  static constexpr int item = sizeof(T);
  int rows_, columns_;  // where this thread reads, in the first row of k

  template <int width>
  LASFAST_DEVICE static void load(float* to, const char* tile, int k, int at) {
    const device::Bits16 bits = device::load16_shared(tile + Layout<width>::offset(k, at));
    LASFAST_UNROLL
    for (int i = 0; i < 4; ++i) to[i] = device::float_of(bits.word[i]);
  }
};

// A warpgroup's product. Its patch is as wide as the tile.
template <typename T, int BM, int BN, int WM, int WN>
struct TransposedWarpgroupProduct : WarpgroupSums<T, WM, WN> {
  static_assert(WM == 64 && WN == BN);
  template <int width>
  using Layout = WarpgroupLayout<T, width>;
  using WarpgroupSums<T, WM, WN>::sum;

  LASFAST_DEVICE void add(const char* a, const char* b, int first_row, int) {
    constexpr int each = 16 * Layout<BN>::row_bytes;  // bytes of 16 elements of k
    const TileAddress rows(a + first_row / 64 * Layout<BM>::leading, Layout<BM>::leading);
    const TileAddress columns(b, Layout<BN>::leading);
    device::warpgroup_begin(sum);
    LASFAST_UNROLL
    for (int k = 0; k < Layout<BN>::leading; k += each)
      device::warpgroup_mma<true>(sum[0], rows.descriptor(k), columns.descriptor(k));
    device::warpgroup_commit();
    device::warpgroup_wait<WarpgroupSums<T, WM, WN>::in_flight>(sum);
  }
};

}  // namespace lasfast
