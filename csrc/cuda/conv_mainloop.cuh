// The main loop of convolutions as matrix products, in the engine and in training. A is [rows, k], B
// [columns, k], and a block computes a tile of BM x BN sums, over 64 or 128 bytes of k at a time.
//
// The loop is a template over
// - a product, which multiplies what lies in shared memory (conv_products.cuh,
//   conv_transposed_products.cuh);
// - a loader: fill(stage, step) copies a step of k or begins to, and arrived(stage) may change what this
//   thread's own copies have brought (conv_loader.cuh);
// - an epilogue, which gets the sums in shared memory, so that it can take statistics of whole columns and
//   store whole chunks of channels.
#pragma once

#include "block.h"
#include "chunk.cuh"
#include "device.cuh"
#include "moments.cuh"

namespace lasfast {

// Says how a tile is divided among teams of threads: warps, or warpgroups, which divide its rows alone.
template <int BM, int BN, bool warpgroups = false>
struct Geometry {
  static constexpr int team_threads = warpgroups ? 128 : 32;
  static constexpr int teams_n = warpgroups || BN == 16 ? 1 : BN == 128 ? 4 : 2;
  static constexpr int teams_m = block_threads / team_threads / teams_n;
  static constexpr int rows = BM / teams_m, columns = BN / teams_n;  // of a team

  LASFAST_DEVICE static int first_row() { return team() / teams_n * rows; }
  LASFAST_DEVICE static int first_column() { return team() % teams_n * columns; }

 private:
  // Instructions of warpgroups take the places of their tiles from registers that a whole warp shares.
  LASFAST_DEVICE static int team() {
    const int number = device::thread_index() / team_threads;
    return warpgroups ? device::uniform(number) : number;
  }
};

// The operands of one step of k.
template <int BM, int BN, int step_bytes = conv_step_bytes>
struct Stage {
  alignas(8 * step_bytes) char a[BM * step_bytes];  // the alignment is what warpgroups want
  char b[BN * step_bytes];
};

// The sums of a tile.
template <int BM, int BN>
struct Result {
  static constexpr int pitch = BN + 4;
  alignas(16) float values[BM * pitch];
  Moments moments;

  // Calls store(row, chunk) for each chunk of this thread; all are of the columns from own_column() on.
  template <typename Store>
  LASFAST_DEVICE void for_own_chunks(int rows, Store store) const {
    for (int row = device::thread_index() / across; row < rows; row += block_threads / across) {
      Chunk x;
      LASFAST_UNROLL
      for (int i = 0; i < chunk; ++i) x.v[i] = values[row * pitch + own_column() + i];
      store(row, x);
    }
  }
  LASFAST_DEVICE static int own_column() { return device::thread_index() % across * chunk; }

 private:
  static constexpr int across = BN / chunk;
};

// How many stages there are: four, but three where four would leave no room for two blocks on a
// multiprocessor.
constexpr int stages_of(int64_t stage_bytes) { return stage_bytes == 32 << 10 ? 3 : 4; }

// The shared memory of the main loop.
template <int BM, int BN, int step_bytes = conv_step_bytes>
union ConvShared {
  Stage<BM, BN, step_bytes> stage[stages_of(sizeof(Stage<BM, BN, step_bytes>))];
  Result<BM, BN> result;
};

// Adds the products of `steps` steps of k. The copies run ahead of them by as many steps as there are stages,
// less the one at hand and those whose products may still be under way. Steps are filled, arrive and are
// multiplied in order. All threads of the block call it, and behind it all their products are done.
template <typename Product, int BM, int BN, int step_bytes, int stages, typename Loader>
LASFAST_DEVICE void add_steps(Product& product, Stage<BM, BN, step_bytes> (&stage)[stages], int steps,
                              Loader& loader) {
  using G = Geometry<BM, BN, Product::warpgroups>;
  constexpr int ahead = stages - 1 - Product::in_flight;
  const int first_row = G::first_row(), first_column = G::first_column();
  LASFAST_ROLL
  for (int step = 0; step < ahead; ++step) {
    if (step < steps) loader.fill(stage[step], step);
    device::copy_commit();
  }
  // Where tiles are narrow, a step has few products: its stage is then known where it is compiled, so that
  // its addresses take no instructions.
  constexpr int together = BN <= 32 && Product::tensor_cores ? stages : 1;
  LASFAST_ROLL
  for (int first = 0; first < steps; first += together) {
    LASFAST_UNROLL
    for (int i = 0; i < together; ++i) {
      const int step = first + i,
                next = step + ahead;  // the step at hand, and that which is filled meanwhile
      if (i > 0 && step >= steps) break;
      device::copy_wait<ahead - 1>();
      auto& at = stage[(together > 1 ? i : step) % stages];
      loader.arrived(at);
      Product::publish();
      device::barrier();  // this step has come, and everybody is done with the last that is not under way
      if (next < steps) loader.fill(stage[(together > 1 ? i + ahead : next) % stages], next);
      device::copy_commit();
      product.add(at.a, at.b, first_row, first_column);
    }
  }
  device::copy_wait<0>();
  product.finish();
}

// Gives the sums to the epilogue.
template <typename Product, int BM, int BN, int step_bytes, typename Epilogue>
LASFAST_DEVICE void finish_tile(const Product& product, ConvShared<BM, BN, step_bytes>& shared,
                                Epilogue epilogue) {
  using G = Geometry<BM, BN, Product::warpgroups>;
  using Result = Result<BM, BN>;
  device::barrier();  // the sums take the place of the stages
  product.store(shared.result.values + G::first_row() * Result::pitch + G::first_column(), Result::pitch);
  device::barrier();
  epilogue(shared.result);
}

// Computes a tile from `steps` steps of k.
template <typename Product, int BM, int BN, int step_bytes, typename Loader, typename Epilogue>
LASFAST_DEVICE void convolve(ConvShared<BM, BN, step_bytes>& shared, int steps, Loader& loader,
                             Epilogue epilogue) {
  Product product;
  add_steps(product, shared.stage, steps, loader);
  finish_tile(product, shared, epilogue);
}

}  // namespace lasfast
