// The product of two tiles in shared memory whose rows are k, A [k, rows] and B [k, columns], added to sums
// in registers: by tensor cores (bf16 and TF32), or exactly in fp32. A step has as many elements of k as 64
// bytes hold: 32 or 16.
//
// The pieces of 16 bytes in a row are permuted, so that what a warp reads together lies in different banks.
//
// Each warp has a patch of the sums, WM x WN, in the layout of conv_products.cuh.
#pragma once

#include "block.h"
#include "conv_products.cuh"
#include "device.cuh"

namespace lasfast {

// Returns where a piece of row k is in a tile of `width` elements a row, in bytes. Rows turn their pieces by
// so much that those read together lie in all banks: two pieces of four rows in fp32, one of eight rows in
// bf16.
template <typename T, int width>
LASFAST_DEVICE int transposed_offset(int k, int piece) {
  constexpr int row_pieces = width * static_cast<int>(sizeof(T)) / 16;
  constexpr int line = row_pieces < 8 ? row_pieces : 8;
  const int turn = (k * line / 8 * (sizeof(T) == 4 ? 2 : 1)) & (line - 1);
  return (k * row_pieces + (piece ^ turn)) * 16;
}

// Returns where element k of row m is.
template <typename T, int width>
LASFAST_DEVICE const T* transposed_element(const char* tile, int k, int m) {
  constexpr int piece = 16 / sizeof(T);
  return reinterpret_cast<const T*>(tile + transposed_offset<T, width>(k, m / piece)) + m % piece;
}

// A warp's product by tensor cores, of tiles that are BM and BN wide.
template <typename T, int BM, int BN, int WM, int WN>
struct TransposedTensorProduct : TensorSums<T, WM, WN> {
  static constexpr const char* name = sizeof(T) == 4 ? "tf32" : "bf16";
  static constexpr int step_bytes = conv_step_bytes;
  static constexpr bool warpgroups = false;
  static constexpr int in_flight = 0;
  LASFAST_DEVICE static void publish() {}
  LASFAST_DEVICE void finish() {}

  // `row` and `column`: the first ones of this warp's patch.
  LASFAST_DEVICE void add(const char* a, const char* b, int row, int column) {
    constexpr int depth = conv_step_bytes / sizeof(T), each = sizeof(T) == 4 ? 8 : 16;
    LASFAST_UNROLL
    for (int k = 0; k < depth; k += each) {
      uint32_t rows[WM / 16][4], columns[WN / 16][4];
      LASFAST_UNROLL
      for (int m = 0; m < WM / 16; ++m) load_rows(rows[m], a, k, row + 16 * m);
      LASFAST_UNROLL
      for (int n = 0; n < WN / 16; ++n) load_columns(columns[n], b, k, column + 16 * n);
      this->multiply(rows, columns);
    }
  }

 private:
  // Matrices: halves of the 16 rows, then of k.
  LASFAST_DEVICE static void load_rows(uint32_t (&to)[4], const char* tile, int k, int m) {
    const int lane = device::thread_index() % 32;
    if constexpr (sizeof(T) == 2) {
      const int at = k + lane % 8 + lane / 16 * 8, piece = m / 8 + lane / 8 % 2;
      device::load_matrix_transposed(to, tile + transposed_offset<T, BM>(at, piece));
    } else {
      LASFAST_UNROLL
      for (int i = 0; i < 4; ++i)
        to[i] = element<BM>(tile, k + lane % 4 + i / 2 * 4, m + lane / 4 + i % 2 * 8);
    }
  }
  // Matrices: halves of k, then of the 16 columns.
  LASFAST_DEVICE static void load_columns(uint32_t (&to)[4], const char* tile, int k, int n) {
    const int lane = device::thread_index() % 32;
    if constexpr (sizeof(T) == 2) {
      const int at = k + lane % 8 + lane / 8 % 2 * 8, piece = n / 8 + lane / 16;
      device::load_matrix_transposed(to, tile + transposed_offset<T, BN>(at, piece));
    } else {
      LASFAST_UNROLL
      for (int i = 0; i < 4; ++i)
        to[i] = element<BN>(tile, k + lane % 4 + i % 2 * 4, n + lane / 4 + i / 2 * 8);
    }
  }
  template <int width>
  LASFAST_DEVICE static uint32_t element(const char* tile, int k, int m) {
    return device::to_tf32(device::bits_of(*transposed_element<T, width>(tile, k, m)));
  }
};

// The product in fp32: one thread adds all of a sum, in rising k. It has four neighbouring rows and columns
// at a time.
template <typename T, int BM, int BN, int WM, int WN>
struct TransposedExactProduct {
  static_assert(sizeof(T) == 4, "bf16 has tensor cores everywhere");
  static_assert(WM % 32 == 0 && WN % 16 == 0, "each lane has whole pieces");
  static constexpr const char* name = "exact";
  static constexpr bool tensor_cores = false;
  static constexpr bool warpgroups = false;
  static constexpr int in_flight = 0;
  float sum[WM / 8][WN / 4] = {};

  LASFAST_DEVICE static void publish() {}
  LASFAST_DEVICE void finish() {}

  LASFAST_DEVICE void add(const char* a, const char* b, int row, int column) {
    const int lane = device::thread_index() % 32;
    LASFAST_UNROLL
    for (int k = 0; k < conv_step_bytes / 4; ++k) {
      float rows[WM / 8], columns[WN / 4];
      LASFAST_UNROLL
      for (int m = 0; m < WM / 32; ++m) load<BM>(rows + 4 * m, a, k, row + 32 * m + lane % 8 * 4);
      LASFAST_UNROLL
      for (int n = 0; n < WN / 16; ++n) load<BN>(columns + 4 * n, b, k, column + 16 * n + lane / 8 * 4);
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
  template <int width>
  LASFAST_DEVICE static void load(float* to, const char* tile, int k, int m) {
    const device::Bits16 bits = device::load16_shared(transposed_element<T, width>(tile, k, m));
    LASFAST_UNROLL
    for (int i = 0; i < 4; ++i) to[i] = device::float_of(bits.word[i]);
  }
};

}  // namespace lasfast
