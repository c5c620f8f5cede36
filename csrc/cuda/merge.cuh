// Second stages: what blocks left of each channel is added in double, always in the same order. A block has
// `merged_channels` channels, and its threads share what belongs to each.
#pragma once

#include "device.cuh"
#include "lasfast/round.h"

namespace lasfast {

constexpr int merge_threads = 256;
constexpr int merged_channels = 8;  // a sector of 32 bytes
constexpr int merge_segments = merge_threads / merged_channels;
constexpr int64_t merge_shared_bytes = merge_threads * int64_t{sizeof(double)};

// The channel that a thread works on, and its part of what belongs to that: every merge_segments-th piece.
struct Merge {
  int64_t channel;
  int segment;

  LASFAST_DEVICE Merge()
      : channel(device::block_index() * merged_channels + device::thread_index() % merged_channels),
        segment(device::thread_index() / merged_channels) {}

  // The sum over the channel's segments; all threads of the block call it, and all of the channel get it.
  LASFAST_DEVICE double sum(double own) const {
    auto* const shared = device::shared<double>();
    device::barrier();  // all have read the sum before
    shared[device::thread_index()] = own;
    device::barrier();
    double total = 0.0;
    for (int i = device::thread_index() % merged_channels; i < merge_threads; i += merged_channels)
      total += shared[i];
    return total;
  }
  // One thread of each channel writes its results.
  LASFAST_DEVICE bool answers(int64_t channels) const { return segment == 0 && channel < channels; }
};

inline int64_t merge_blocks(int64_t channels) { return divide_up(channels, merged_channels); }

}  // namespace lasfast
