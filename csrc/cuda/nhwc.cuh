// What the passes of convolutions on NHWC values share: dense ones (conv2d_nhwc.h) and depthwise ones
// (depthwise_nhwc.h).
#pragma once

#include "chunk.cuh"
#include "device.cuh"
#include "lasfast/round.h"
#include "lasfast/sliced_conv2d.h"
#include "lasfast/status.h"

namespace lasfast {

constexpr int64_t max_positions =
    (int64_t{1} << 31) - 4096;  // int indices, with room for a tile beyond the end

// Whether every vector of channels can be read and written 16 bytes at a time.
inline bool is_whole(const void* values, int64_t channels, int64_t item_bytes) {
  return channels * item_bytes % 16 == 0 && reinterpret_cast<uintptr_t>(values) % 16 == 0;
}

// The first address of scratch memory that is aligned as kernels want it; at most `scratch_slack` further on.
constexpr int64_t scratch_slack = 15;
inline char* align_to_16(void* workspace) {
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(workspace) + 15) / 16 * 16);
}

// Division of numbers below 2^31 by one that stays the same.
struct Divisor {
  uint32_t value, factor;
  int shift;

  explicit Divisor(int64_t by) : value(static_cast<uint32_t>(by < 1 ? 1 : by)), shift(31) {
    while ((int64_t{1} << (shift - 31)) < by) ++shift;
    factor = static_cast<uint32_t>((uint64_t{1} << shift) / value + 1);
  }
  // Returns the quotient, and leaves the remainder.
  LASFAST_DEVICE int divide(int& number) const {
    const auto quotient = static_cast<int>(uint64_t{factor} * static_cast<uint32_t>(number) >> shift);
    number -= quotient * static_cast<int>(value);
    return quotient;
  }
};

// Positions of [images, height, width] from their numbers.
struct Grid {
  Divisor width, height;

  struct Position {
    int image, y, x;
  };
  LASFAST_DEVICE Position operator()(int number) const {
    Position at{0, 0, number};
    at.y = width.divide(at.x);
    at.image = height.divide(at.y);
    return at;
  }
};

// ---- the second stages, in merge_nhwc.cu

// Mean and biased variance of channels, from those of `items` tiles of `each` positions (the last has the
// rest).
struct StatisticsArgs {
  const float* partial;  // [items][mean, squared deviations][channels]
  int64_t items, each, total;
  int channels;
  float *mean, *variance;  // [channels]
};
int launch_statistics(const StatisticsArgs& args, device::Stream stream);

// The gradient of a weight, from the sums over `parts` of the positions.
struct MergeArgs {
  const float* partial;  // [parts][kernel, kernel, channels][columns]
  int parts, columns, channels, kernel;
  int64_t stride[4];   // of the gradient [columns, channels, kernel, kernel], in elements
  float* grad_weight;  // the slice that is overwritten
};
int launch_merge_sums(const MergeArgs& args, device::Stream stream);

}  // namespace lasfast
