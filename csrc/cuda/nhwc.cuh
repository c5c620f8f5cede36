// What the passes of dense convolutions on NHWC values (conv2d_nhwc.h) and of depthwise ones
// (depthwise_nhwc.h) share.
#pragma once

#include "chunk.cuh"
#include "device.cuh"
#include "entry.cuh"
#include "lasfast/round.h"
#include "lasfast/sliced_conv2d.h"

namespace lasfast {

// Says whether every vector of channels can be read and written 16 bytes at a time.
inline bool is_whole(const void* values, int64_t channels, int64_t item_bytes) {
  return channels * item_bytes % 16 == 0 && reinterpret_cast<uintptr_t>(values) % 16 == 0;
}

// The first address of a workspace that is aligned as kernels want it, at most `workspace_slack` bytes
// further on.
constexpr int64_t workspace_slack = 15;
inline char* align_to_16(void* workspace) {
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(workspace) + 15) / 16 * 16);
}

// A divisor of numbers below 2^31 that is known before the kernel begins: it multiplies instead.
struct Divisor {
  uint32_t value, factor;
  int shift;

  explicit Divisor(int64_t by) : value(static_cast<uint32_t>(by < 1 ? 1 : by)), shift(31) {
    while ((int64_t{1} << (shift - 31)) < by) ++shift;
    factor = static_cast<uint32_t>((uint64_t{1} << shift) / value + 1);
  }
  // Returns the quotient, and leaves the remainder in `number`.
  LASFAST_DEVICE int divide(int& number) const {
    const auto quotient = static_cast<int>(uint64_t{factor} * static_cast<uint32_t>(number) >> shift);
    number -= quotient * static_cast<int>(value);
    return quotient;
  }
};

// Finds positions of [images, height, width] by their numbers.
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

// ---- the second stages, in merge_nhwc.cu; `early`: whether they may begin before the first stage has ended

// Merges the statistics of `items` tiles, of `each` positions but for the last, which has the rest, to mean
// and biased variance of each channel.
struct StatisticsArgs {
  const float* partial;  // [items][mean, squared deviations][channels]
  int64_t items, each, total;
  int channels;
  float *mean, *variance;  // [channels]
};
int launch_statistics(const StatisticsArgs& args, device::Stream stream, bool early);

// Adds the sums over `parts` of the positions to the gradient of a weight.
struct MergeArgs {
  const float* partial;  // [parts][kernel, kernel, channels][columns]
  int parts, columns, channels, kernel;
  int64_t stride[4];   // of the gradient [columns, channels, kernel, kernel], in elements
  float* grad_weight;  // the slice that is overwritten
};
int launch_merge_sums(const MergeArgs& args, device::Stream stream, bool early);

}  // namespace lasfast
