// Sets of the taps of a window, for what is inside of an image: where convolutions' loaders take bits instead
// of comparing coordinates in their loops.
#pragma once

#include <cstdint>

#include "device.cuh"
#include "lasfast/schedule.h"

namespace lasfast {

// The rows and columns of a window, a bit for each. A tap has one of each; behind k, elements have bits that
// are in no mask. Where nothing is padded, all taps have the same bits, and there may be more of them.
constexpr int tap_bits = 11;
static_assert(tap_bits >= schedule_max_kernel);
constexpr uint32_t first_tap = 1u | 1u << tap_bits, behind_k = 1u << 2 * tap_bits;

// Returns the bits of those of `taps` taps from `first` on that are inside of an axis.
LASFAST_DEVICE uint32_t taps_inside(int first, int taps, int size) {
  const int begin = first < 0 ? -first : 0, end = taps < size - first ? taps : size - first;
  return begin < end ? (1u << end) - (1u << begin) : 0;
}

}  // namespace lasfast
