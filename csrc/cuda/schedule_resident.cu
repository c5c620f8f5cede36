// Prediction in one launch: a block of threads takes a few images through all operations of a schedule, and
// the values stay in its shared memory. Device memory sees images and logits alone; weights come from the
// second level of cache, which all blocks share.
//
// Operations follow one another with a barrier between them. Convolutions multiply as the main loop of
// conv_mainloop.cuh does, and in the same order of k, but only the weights are copied: the rows of A are read
// from the value where it lies. Each thread walks over the pieces under the windows of its rows, and reads
// zeros where there is padding. The weights come through a ring of steps of k. Where all steps of some
// columns fit into the ring, they are copied once for all positions.
#include <cstddef>

#include "conv_products.cuh"
#include "k_order.cuh"
#include "lasfast/round.h"
#include "schedule_kernels.cuh"
#include "schedule_planes.cuh"
#include "schedule_resident.cuh"

namespace lasfast {
namespace {

constexpr int ring_bytes = 24 << 10;
constexpr int pieces = conv_step_bytes / 16;

struct ResidentArgs {
  PassArgs pass;
  int64_t images;  // in a group: what a block takes at a time
  int groups, blocks;
  int arena_bytes;
};

// The rows of A that a thread reads for a tile of positions.
template <typename T, typename Product>
class WindowRows {
 public:
  LASFAST_DEVICE WindowRows(const Problem& p, int first, int end)
      : value_(arena_begin + static_cast<int>(p.input.offset) * item),
        swizzle_(p.input.pitch * item),
        pitch_(p.input.pitch * item),
        height_(p.input.height),
        width_(p.input.width),
        kernel_height_(p.kernel_height),
        kernel_width_(p.kernel_width),
        walk_(run_of(p.input.pitch, conv_step_bytes / item) * item) {
    walk_.channel = Product::first_piece() * 16;
    LASFAST_UNROLL
    for (int i = 0; i < Product::rows_read; ++i) {
      const int number = first + Product::row(i);
      const Position at(p, number);
      // Rows beyond the last position see nothing but padding.
      const int top = at.y * p.stride - p.padding;
      top_[i] = number < end ? top : -(1 << 30);
      left_[i] = at.x * p.stride - p.padding;
      start_[i] = ((static_cast<int>(at.image) * height_ + top) * width_ + left_[i]) * pitch_;
    }
    enter<0>();
  }

  LASFAST_DEVICE const char* piece(int i, int, int) const {
    const bool inside = static_cast<unsigned>(top_[i] + row_) < static_cast<unsigned>(height_) &&
                        static_cast<unsigned>(left_[i] + walk_.column) < static_cast<unsigned>(width_);
    const int zeros = offsetof(ResidentShared, zeros);
    return device::shared<char>() + (inside ? value_ + swizzle_(start_[i] + under_) : zeros);
  }
  LASFAST_DEVICE void next() { enter<Product::piece_step * 16>(); }

 private:
  static constexpr int item = sizeof(T);

  // Goes on by so many bytes. Behind the last channel there is nothing to see.
  template <int bytes>
  LASFAST_DEVICE void enter() {
    walk_.template advance<bytes>(kernel_width_, kernel_height_);
    row_ = walk_.channel < pitch_ ? walk_.row : 1 << 29;
    // Behind the last channel this wraps, and is not used.
    const auto row = static_cast<unsigned>(row_);
    under_ = static_cast<int>((row * width_ + walk_.column) * pitch_ + walk_.channel);
  }

  int value_;
  Swizzle swizzle_;
  int pitch_, height_, width_, kernel_height_, kernel_width_;
  int top_[Product::rows_read], left_[Product::rows_read], start_[Product::rows_read];
  Walk walk_;  // in bytes
  int row_ = 0, under_ = 0;
};

// ---- kinds of operations. The operation at hand is problem[at], and the bytes behind the arena begin at
// `stage`. These functions are called, not inlined, so that what one works out beforehand takes no registers
// from others.

// Exact products need more registers for each sum.
template <typename T, template <typename, int, int> class ProductOf>
constexpr bool on_tensor_cores = ProductOf<T, 32, 16>::piece_step == 2;

// Warps have tiles of up to 32 columns, or of 16: then more of them stand side by side.
template <typename T, int BN, int most_columns, template <typename, int, int> class ProductOf>
LASFAST_CALLED void conv(int at, int stage) {
  const PassArgs& pass = device::shared<ResidentShared>()->pass;
  const Problem& p = device::shared<ResidentShared>()->problem[at];
  char* const ring = device::shared<char>() + stage;
  constexpr int warp_rows = on_tensor_cores<T, ProductOf> ? 32 : 16;
  constexpr int warp_columns = BN < most_columns ? BN : most_columns;
  constexpr int warps_n = BN / warp_columns, tile_rows = block_threads / 32 / warps_n * warp_rows;
  constexpr int slot_bytes = BN * conv_step_bytes, slots = ring_bytes / slot_bytes;
  constexpr int step_elements = conv_step_bytes / sizeof(T), piece_elements = 16 / sizeof(T);
  using Product = ProductOf<T, warp_rows, warp_columns>;
  device::note_tile("resident", Product::name, tile_rows, BN, true);
  const int thread = device::thread_index(), warp = thread / 32;
  const int first_row = warp / warps_n * warp_rows, first_column = warp % warps_n * warp_columns;
  const int positions = static_cast<int>(pass.count) * p.out_height * p.out_width;
  const int row_tiles = (positions + tile_rows - 1) / tile_rows;
  const int steps = p.depth / step_elements;
  const bool once = steps <= slots;
  const int wanted = once ? steps : row_tiles * steps;  // steps to copy, tile after tile

  LASFAST_ROLL
  for (int column = 0; column < p.out_pitch; column += BN) {
    const auto copy = [&](int number) {
      if (number < wanted) {
        char* const slot = ring + number % slots * slot_bytes;
        const auto* const weight = reinterpret_cast<const T*>(pass.weights + p.weight);
        const int k = number % steps * step_elements + thread % pieces * piece_elements;
        for (int n = thread / pieces; n < BN; n += block_threads / pieces) {
          const int c = column + n;
          const bool inside = c < p.out_channels;
          device::copy16_async(slot + piece_offset(n, thread % pieces),
                               weight + static_cast<int64_t>(inside ? c : 0) * p.depth + k, inside);
        }
      }
      device::copy_commit();
    };
    if (column > 0) device::barrier();  // all are done with the columns before
    LASFAST_ROLL
    for (int number = 0; number < slots - 1; ++number) copy(number);
    LASFAST_ROLL
    for (int tile = 0; tile < row_tiles; ++tile) {
      const int first = tile * tile_rows + first_row;
      WindowRows<T, Product> windows(p, first, positions);
      Product product;
      LASFAST_ROLL
      for (int step = 0; step < steps; ++step) {
        const int number = once ? step : tile * steps + step;
        if (tile == 0 || !once) {
          device::copy_wait<slots - 2>();
          device::barrier();  // this step has come, and everybody is done with the one before
          copy(number + slots - 1);
        }
        if (first < positions)
          product.add(windows, ring + number % slots * slot_bytes + first_column * conv_step_bytes);
      }
      LASFAST_UNROLL
      for (int n = 0; n < Product::columns_held; ++n) {
        const int c = column + first_column + Product::held_column(n);
        if (c >= p.out_pitch) continue;
        const Finish<Resident<T>, Product::held_together> finish(pass, p, c);
        LASFAST_UNROLL
        for (int m = 0; m < Product::rows_held; ++m) {
          const int position = first + Product::held_row(m);
          if (position < positions) finish.store(product.held(m, n), position);
        }
      }
    }
  }
}

// Lets warps have columns for themselves where there are too few positions for all of them one below the
// other.
template <typename T, int BN, template <typename, int, int> class Product>
LASFAST_DEVICE void conv(int at, int stage) {
  if constexpr (on_tensor_cores<T, Product> && BN > 16) {
    const Problem& p = device::shared<ResidentShared>()->problem[at];
    constexpr int rows = block_threads / 32 / (BN / 32) * 32;  // of a tile with warps of 32 columns
    const auto positions = device::shared<ResidentShared>()->pass.count * p.out_height * p.out_width;
    if (positions > rows / 2) return conv<T, BN, 32, Product>(at, stage);
  }
  conv<T, BN, 16, Product>(at, stage);
}

template <typename T>
LASFAST_CALLED void depthwise(int at, int stage) {
  const PassArgs& pass = device::shared<ResidentShared>()->pass;
  const Problem& p = device::shared<ResidentShared>()->problem[at];
  auto* const weights = reinterpret_cast<float*>(device::shared<char>() + stage);
  LASFAST_ROLL
  for (int column = 0; column < p.column_tiles; ++column) {
    if (column > 0) device::barrier();  // all are done with the weights before
    load_taps(pass, p, column * p.columns, weights);
    device::barrier();
    LASFAST_ROLL
    for (int row = 0; row < p.row_tiles; ++row)
      depthwise_tile<Resident<T>>(pass, p, Tile(pass, p, int64_t{row} * p.column_tiles + column), weights,
                                  nullptr);
  }
}

template <typename T, template <typename> class Op>
LASFAST_CALLED void planes(int at) {
  const PassArgs& pass = device::shared<ResidentShared>()->pass;
  const Problem& p = device::shared<ResidentShared>()->problem[at];
  LASFAST_ROLL
  for (int tile = 0; tile < p.row_tiles * p.column_tiles; ++tile)
    plane_tile<Resident<T>, Op>(pass, p, Tile(pass, p, tile), nullptr);
}

template <typename T, template <typename, int, int> class Product>
LASFAST_DEVICE void run(int at, int stage) {
  const Problem& p = device::shared<ResidentShared>()->problem[at];
  switch (p.work) {
    case Work::depthwise:
      return depthwise<T>(at, stage);
    case Work::max_pool:
      return planes<T, MaxPool>(at);
    case Work::avg_pool:
      return planes<T, AvgPool>(at);
    case Work::global_pool:
      return planes<T, GlobalPool>(at);
    case Work::combine:
      return planes<T, Combine>(at);
    case Work::gate:
      return planes<T, Gate>(at);
    case Work::arrange:
      return planes<T, Arrange>(at);
    case Work::input:
      return planes<T, Input>(at);
    default:
      if (p.columns == 16) return conv<T, 16, Product>(at, stage);
      if (p.columns == 32) return conv<T, 32, Product>(at, stage);
      return conv<T, 64, Product>(at, stage);
  }
}

template <typename T, template <typename, int, int> class Product>
LASFAST_KERNEL(block_threads, resident_blocks)
resident(const ResidentArgs args) {
  auto* const shared = device::shared<ResidentShared>();
  const int stage = arena_begin + args.arena_bytes;
  const int thread = device::thread_index(), problems = static_cast<int>(args.pass.problem_count);
  const auto fetch = [&](int number, Problem* to) {
    if (thread < static_cast<int>(sizeof(Problem) / 16))
      device::copy16_async(reinterpret_cast<char*>(to) + thread * 16,
                           reinterpret_cast<const char*>(args.pass.problems + number) + thread * 16, true);
    device::copy_commit();
  };
  fetch(0, shared->problem);
  if (thread == 0) {
    device::store16(shared->zeros, {});
    shared->pass = args.pass;
  }
  device::copy_wait<0>();
  int at = 0;  // which of the two problems is at hand
  LASFAST_ROLL
  for (int group = static_cast<int>(device::block_index()); group < args.groups; group += args.blocks) {
    if (thread == 0) {
      const int64_t first = group * args.images, left = args.pass.count - first;
      shared->pass.first = first;
      shared->pass.count = left < args.images ? left : args.images;
    }
    device::barrier();
    LASFAST_ROLL
    for (int number = 0; number < problems; ++number, at = 1 - at) {
      // The next problem is on its way meanwhile. Behind the last one comes the first, for other images.
      fetch(number + 1 < problems ? number + 1 : 0, shared->problem + 1 - at);
      run<T, Product>(at, stage);
      device::copy_wait<0>();
      device::barrier();
    }
  }
}

}  // namespace

int64_t resident_stage_bytes(const Problem& p) {
  if (is_conv(p.work)) return ring_bytes;
  if (p.work != Work::depthwise) return 0;
  const int64_t bytes = int64_t{p.kernel_height} * p.kernel_width * p.columns * int64_t{sizeof(float)};
  return round_to(bytes, line_bytes);
}

int64_t resident_bytes(int64_t arena_bytes, int64_t stage_bytes) {
  return arena_begin + arena_bytes + stage_bytes;
}

int launch_resident(const LaunchPlan& plan, const PassArgs& pass, int64_t blocks, device::Stream stream) {
  const ResidentArgs args{pass, plan.images, static_cast<int>(divide_up(pass.count, plan.images)),
                          static_cast<int>(blocks), static_cast<int>(plan.arena_bytes)};
  auto* const kernel = plan.bfloat16 ? resident<device::bfloat16, TensorProduct>
                       : plan.tf32   ? resident<float, TensorProduct>
                                     : resident<float, ExactProduct>;
  return device::launch(kernel, blocks, block_threads, plan.resident_bytes, stream, args);
}

}  // namespace lasfast
