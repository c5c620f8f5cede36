// The product of two tiles in shared memory, A [rows, step of k] and B [columns, step of k], added to sums in
// registers: by tensor cores (bf16 and TF32; a warp at a time, or a warpgroup), or exactly in fp32. A step is
// 64 bytes; 128, for warpgroups. For TF32, A is rounded here, at each use, and B, a packed weight, has been
// rounded when it was packed.
//
// The pieces of 16 bytes in a row are permuted, so that piece j of eight successive rows lies in different
// banks. In steps of 128 bytes, a row fills a line of all banks, and piece j of row r is at j ^ r, modulo
// eight. In steps of 64 bytes, two rows do, and piece j of row r is at j ^ (r / 2), modulo four.
//
// Each warp or warpgroup has a patch of the sums, WM x WN. A product may leave those of `in_flight` steps
// under way; it is finished before its sums are stored.
#pragma once

#include "block.h"
#include "device.cuh"
#include "values.cuh"

namespace lasfast {

template <int step_bytes = conv_step_bytes>
LASFAST_DEVICE int piece_offset(int row, int piece) {
  static_assert(step_bytes == 64 || step_bytes == 128, "two rows or one fill a line");
  return row * step_bytes + ((piece ^ (step_bytes == 64 ? row >> 1 : row)) & (step_bytes / 16 - 1)) * 16;
}

// The rows of A where they were copied to, from a warp's first on. (schedule_resident.cu has rows that walk
// over a value instead: next() goes from the pieces at hand to those that the thread reads next.)
struct CopiedRows {
  const char* first;

  LASFAST_DEVICE void next() {}
  LASFAST_DEVICE const char* piece(int, int row, int piece) const { return first + piece_offset(row, piece); }
};

// A warp's sums, by tensor cores.
template <typename T, int WM, int WN>
struct TensorSums {
  static constexpr bool tensor_cores = true;
  float sum[WM / 16][WN / 8][4] = {};

  // Adds the products of 32 bytes of k. In `columns`, the two halves of k alternate.
  LASFAST_DEVICE void multiply(const uint32_t (&rows)[WM / 16][4], const uint32_t (&columns)[WN / 16][4]) {
    LASFAST_UNROLL
    for (int m = 0; m < WM / 16; ++m) LASFAST_UNROLL
    for (int n = 0; n < WN / 8; ++n) {
      const uint32_t column[2] = {columns[n / 2][n % 2 * 2], columns[n / 2][n % 2 * 2 + 1]};
      if constexpr (sizeof(T) == 4)
        device::mma_tf32(sum[m][n], rows[m], column);
      else
        device::mma_bf16(sum[m][n], rows[m], column);
    }
  }

  // Writes the sums to a tile of floats whose rows are `pitch` apart.
  LASFAST_DEVICE void store(float* to, int pitch) const {
    const int lane = device::thread_index() % 32;
    LASFAST_UNROLL
    for (int m = 0; m < WM / 16; ++m) LASFAST_UNROLL
    for (int n = 0; n < WN / 8; ++n) LASFAST_UNROLL
    for (int i = 0; i < 4; ++i)
      to[(16 * m + lane / 4 + i / 2 * 8) * pitch + 8 * n + lane % 4 * 2 + i % 2] = sum[m][n][i];
  }
};

// A warp's product by tensor cores. Its first row and column are multiples of eight.
template <typename T, int WM, int WN>
struct TensorProduct : TensorSums<T, WM, WN> {
  static constexpr const char* name = sizeof(T) == 4 ? "tf32" : "bf16";
  static constexpr int step_bytes = conv_step_bytes;
  static constexpr bool warpgroups = false;
  static constexpr int in_flight = 0;
  LASFAST_DEVICE static void publish() {}
  LASFAST_DEVICE void finish() {}

  LASFAST_DEVICE void add(const char* a, const char* b, int first_row, int first_column) {
    CopiedRows rows{a + first_row * conv_step_bytes};
    add(rows, b + first_column * conv_step_bytes);
  }

  // A thread reads row(0) .. row(rows_read - 1) of A: the pieces from first_piece() on, piece_step apart.
  static constexpr int rows_read = WM / 16, piece_step = 2;
  LASFAST_DEVICE static int row(int i) { return 16 * i + device::thread_index() % 16; }
  LASFAST_DEVICE static int first_piece() { return device::thread_index() % 32 / 16; }

  template <typename Rows>
  LASFAST_DEVICE void add(Rows& a, const char* b) {
    const int lane = device::thread_index() % 32;
    const int b_row = lane % 8 + lane / 16 * 8, b_half = lane / 8 % 2;  // halves of k, then columns
    LASFAST_UNROLL
    for (int k = 0; k < 2; ++k) {
      uint32_t rows[WM / 16][4], columns[WN / 16][4];
      LASFAST_UNROLL
      for (int m = 0; m < WM / 16; ++m) {
        device::load_matrix(rows[m], a.piece(m, row(m), 2 * k + first_piece()));
        round(rows[m]);
      }
      a.next();
      LASFAST_UNROLL
      for (int n = 0; n < WN / 16; ++n)
        device::load_matrix(columns[n], b + piece_offset(16 * n + b_row, 2 * k + b_half));
      this->multiply(rows, columns);
    }
  }

  // The sums that a thread holds: in some rows those of some columns, each together with the next.
  static constexpr int held_together = 2, columns_held = WN / 8, rows_held = WM / 8;
  LASFAST_DEVICE static int held_column(int n) { return 8 * n + device::thread_index() % 4 * 2; }
  LASFAST_DEVICE static int held_row(int m) { return 8 * m + device::thread_index() % 32 / 4; }
  LASFAST_DEVICE Values<2> held(int m, int n) const {
    return {{this->sum[m / 2][n][m % 2 * 2], this->sum[m / 2][n][m % 2 * 2 + 1]}};
  }

 private:
  LASFAST_DEVICE static void round(uint32_t (&bits)[4]) {
    if constexpr (sizeof(T) == 4) {
      LASFAST_UNROLL
      for (int i = 0; i < 4; ++i) bits[i] = device::to_tf32(bits[i]);
    }
  }
};

// The product in fp32: one thread adds all of a sum, in rising k.
template <typename T, int WM, int WN>
struct ExactProduct {
  static_assert(sizeof(T) == 4, "bf16 has tensor cores everywhere");
  static constexpr const char* name = "exact";
  static constexpr int step_bytes = conv_step_bytes;
  static constexpr bool tensor_cores = false;
  static constexpr bool warpgroups = false;
  static constexpr int in_flight = 0;
  float sum[WM / 8][WN / 4] = {};

  LASFAST_DEVICE static void publish() {}
  LASFAST_DEVICE void finish() {}

  LASFAST_DEVICE void add(const char* a, const char* b, int first_row, int first_column) {
    CopiedRows rows{a + first_row * conv_step_bytes};
    add(rows, b + first_column * conv_step_bytes);
  }

  static constexpr int rows_read = WM / 8, piece_step = 1;
  LASFAST_DEVICE static int row(int i) { return 8 * i + device::thread_index() % 8; }
  LASFAST_DEVICE static int first_piece() { return 0; }

  template <typename Rows>
  LASFAST_DEVICE void add(Rows& a, const char* b) {
    const int lane = device::thread_index() % 32;
    LASFAST_UNROLL
    for (int piece = 0; piece < 4; ++piece) {
      device::Bits16 columns[WN / 4];
      LASFAST_UNROLL
      for (int n = 0; n < WN / 4; ++n)
        columns[n] = device::load16_shared(b + piece_offset(4 * n + lane / 8, piece));
      LASFAST_UNROLL
      for (int m = 0; m < WM / 8; ++m) {
        const device::Bits16 values = device::load16_shared(a.piece(m, row(m), piece));
        LASFAST_UNROLL
        for (int n = 0; n < WN / 4; ++n) LASFAST_UNROLL
        for (int i = 0; i < 4; ++i)
          sum[m][n] += device::float_of(values.word[i]) * device::float_of(columns[n].word[i]);
      }
      a.next();
    }
  }

  LASFAST_DEVICE void store(float* to, int pitch) const {
    const int lane = device::thread_index() % 32;
    LASFAST_UNROLL
    for (int m = 0; m < WM / 8; ++m) LASFAST_UNROLL
    for (int n = 0; n < WN / 4; ++n) to[(8 * m + lane % 8) * pitch + 4 * n + lane / 8] = sum[m][n];
  }

  static constexpr int held_together = 1, columns_held = WN / 4, rows_held = WM / 8;
  LASFAST_DEVICE static int held_column(int n) { return 4 * n + device::thread_index() % 32 / 8; }
  LASFAST_DEVICE static int held_row(int m) { return row(m); }
  LASFAST_DEVICE Values<1> held(int m, int n) const { return {{sum[m][n]}}; }
};

// Where a tile is whose lines are 128 bytes with permuted pieces, as the matrix instructions of warpgroups
// are told. A line is a row, or, if the tile is transposed, 64 rows of an element of k; the next 64 rows are
// `leading` bytes further on. Its first line is at a multiple of 1024 bytes.
class TileAddress {
 public:
  LASFAST_DEVICE explicit TileAddress(const char* lines, uint32_t leading = 16)
      : low_((device::shared_address(lines) & 0x3ffff) >> 4 | leading >> 4 << 16) {}

  // Describes the tile from some bytes further on: a multiple of eight lines, and of 32 bytes in a row.
  LASFAST_DEVICE uint64_t descriptor(int bytes) const {
    constexpr uint32_t eight_lines = 1024 >> 4, permuted_128_bytes = 1;
    return (low_ + bytes / 16) | uint64_t{eight_lines | permuted_128_bytes << 30} << 32;
  }

 private:
  uint32_t low_;
};

// A warpgroup's sums, by the tensor cores of Hopper: they read both tiles from shared memory, and go on by
// themselves.
template <typename T, int WM, int WN>
struct WarpgroupSums {
  static_assert(sizeof(T) == 2, "warpgroups multiply bf16");
  static constexpr const char* name = "warpgroups";
  static constexpr int step_bytes = 128;
  static constexpr bool tensor_cores = true;
  static constexpr bool warpgroups = true;
  static constexpr int in_flight = 1;
  float sum[WM / 64][WN / 8][4] = {};

  // Lets the products behind the next barrier see what this thread copied.
  LASFAST_DEVICE static void publish() { device::publish_to_warpgroups(); }
  LASFAST_DEVICE void finish() { device::warpgroup_wait<0>(sum); }

  LASFAST_DEVICE void store(float* to, int pitch) const {
    const int lane = device::thread_index() % 32, first_row = device::thread_index() / 32 % 4 * 16;
    LASFAST_UNROLL
    for (int m = 0; m < WM / 64; ++m) LASFAST_UNROLL
    for (int n = 0; n < WN / 8; ++n) LASFAST_UNROLL
    for (int i = 0; i < 4; ++i)
      to[(64 * m + first_row + lane / 4 + i / 2 * 8) * pitch + 8 * n + lane % 4 * 2 + i % 2] = sum[m][n][i];
  }
};

// A warpgroup's product.
template <typename T, int WM, int WN>
struct WarpgroupProduct : WarpgroupSums<T, WM, WN> {
  using WarpgroupSums<T, WM, WN>::step_bytes, WarpgroupSums<T, WM, WN>::sum;

  LASFAST_DEVICE void add(const char* a, const char* b, int first_row, int first_column) {
    const TileAddress rows(a + first_row * step_bytes), columns(b + first_column * step_bytes);
    device::warpgroup_begin(sum);
    LASFAST_UNROLL
    for (int k = 0; k < step_bytes; k += 32) LASFAST_UNROLL
    for (int m = 0; m < WM / 64; ++m)
      device::warpgroup_mma<false>(sum[m], rows.descriptor(64 * m * step_bytes + k), columns.descriptor(k));
    device::warpgroup_commit();
    device::warpgroup_wait<WarpgroupSums<T, WM, WN>::in_flight>(sum);
  }
};

}  // namespace lasfast
