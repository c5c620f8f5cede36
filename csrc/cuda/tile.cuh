// A tiled matrix product whose operands are computed on the fly: C[m, n] = sum over k of A[m, k] * B[k, n],
// in fp32.
//
// `Problem` is a POD that says what the indices mean (see sliced_conv2d.cu):
//   int m, n, k_end(part); int64_t parts;    sizes; a part is an independent product, with its own range of k
//   Column column(part, n)                   what all B[., n] have in common
//   float a(part, m, k), b(part, column, k)  elements, 0 where padding is
//   void store(part, m, n, value)
// Each C element is summed by one thread in rising k: the same bits every time.
#pragma once

#include "device.cuh"
#include "lasfast/round.h"

namespace lasfast {

constexpr int tile_threads = 256;
constexpr int tile_depth = 16;  // elements of k in a step

template <int BM, int BN>
struct Tiles {
  float a[tile_depth][BM + 1];  // + 1 spreads a column, which is written at once, over all banks
  float b[tile_depth][BN];
};

// Each block computes BM x BN elements of C, and each thread TM x TN of them.
template <int BM, int BN, int TM, int TN, typename Problem>
LASFAST_KERNEL(tile_threads, 1)
tile_product(const Problem problem) {
  static_assert(BM / TM * (BN / TN) == tile_threads, "every thread has one patch");
  static_assert(tile_threads % BN == 0, "a thread loads one column of B");
  auto* const tiles = device::shared<Tiles<BM, BN>>();
  const int thread = device::thread_index();
  const int64_t n_tiles = (problem.n + BN - 1) / BN, m_tiles = (problem.m + BM - 1) / BM;
  const int64_t block = device::block_index();
  const int n0 = static_cast<int>(block % n_tiles) * BN,
            m0 = static_cast<int>(block / n_tiles % m_tiles) * BM;
  const int64_t part = block / n_tiles / m_tiles;

  const int load_n = thread % BN;
  const bool has_column = n0 + load_n < problem.n;
  const auto column = problem.column(part, has_column ? n0 + load_n : 0);
  const int row = thread / (BN / TN), col = thread % (BN / TN);

  float sum[TM][TN] = {};
  const int k_end = problem.k_end(part);
  for (int k0 = problem.k_begin(part); k0 < k_end; k0 += tile_depth) {
    for (int e = thread; e < BM * tile_depth; e += tile_threads) {
      const int m = m0 + e / tile_depth, k = k0 + e % tile_depth;
      tiles->a[e % tile_depth][e / tile_depth] = m < problem.m && k < k_end ? problem.a(part, m, k) : 0.f;
    }
    for (int i = thread / BN; i < tile_depth; i += tile_threads / BN)
      tiles->b[i][load_n] = has_column && k0 + i < k_end ? problem.b(part, column, k0 + i) : 0.f;
    device::barrier();
    LASFAST_UNROLL
    for (int i = 0; i < tile_depth; ++i) LASFAST_UNROLL
    for (int r = 0; r < TM; ++r) LASFAST_UNROLL
    for (int c = 0; c < TN; ++c)
      sum[r][c] += tiles->a[i][row + r * (BM / TM)] * tiles->b[i][col + c * (BN / TN)];
    device::barrier();
  }
  for (int r = 0; r < TM; ++r)
    for (int c = 0; c < TN; ++c) {
      const int m = m0 + row + r * (BM / TM), n = n0 + col + c * (BN / TN);
      if (m < problem.m && n < problem.n) problem.store(part, m, n, sum[r][c]);
    }
}

// Returns the runtime's error number, 0 for none, or -1 for more blocks than a grid has.
template <int BM, int BN, int TM, int TN, typename Problem>
int launch_tiles(const Problem& problem, device::Stream stream) {
  const int64_t blocks = divide_up(problem.n, BN) * divide_up(problem.m, BM) * problem.parts;
  if (blocks > device::max_blocks) return -1;
  return device::launch(tile_product<BM, BN, TM, TN, Problem>, blocks, tile_threads, sizeof(Tiles<BM, BN>),
                        stream, problem);
}

// Takes square tiles, or flat ones where m is small (depthwise convolutions have one row).
template <typename Problem>
int launch_product(const Problem& problem, device::Stream stream) {
  return problem.m > 8 ? launch_tiles<64, 64, 4, 4>(problem, stream)
                       : launch_tiles<8, 128, 1, 4>(problem, stream);
}

}  // namespace lasfast
