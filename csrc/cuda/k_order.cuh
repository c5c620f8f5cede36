// The order of k, (tap, input channel), in the matrix products of convolutions, and the elements of packed
// weights, which are in this order.
//
// Where channels fill whole steps of the loop over k, or pairs of steps, all taps come in turn for the
// channels of one, then for those of the next: windows overlap, and what they share is read again while the
// first level of cache has it. Elsewhere all channels of one tap come, then those of the next, so that k has
// no holes. A loop whose steps are twice as deep has the same order.
#pragma once

#include "device.cuh"

namespace lasfast {

// Returns an element of a packed weight. An fp32 one that is multiplied as TF32 is rounded here, once.
template <typename T>
LASFAST_DEVICE T packed_weight(float value, bool tf32) {
  if (sizeof(T) == 4 && tf32) value = device::float_of(device::to_tf32(device::bits_of(value)));
  return device::from_float<T>(value);
}

// Returns how many channels of a tap stand together: a run.
LASFAST_DEVICE int run_of(int channels, int step_elements) {
  if (channels % (2 * step_elements) == 0) return 2 * step_elements;
  return channels % step_elements == 0 ? step_elements : channels;
}

// The tap and channel of element k. Behind the last element, the channel is beyond the last.
struct KElement {
  int tap, channel;

  LASFAST_DEVICE KElement(int k, int taps, int run) {
    const int within = k % (taps * run);
    tap = within / run;
    channel = k / (taps * run) * run + within % run;
  }
};

// A walk over the elements in their order, by rows and columns of the window.
struct Walk {
  int run, end;  // the run at hand ends before this channel
  int row = 0, column = 0, channel = 0;

  LASFAST_DEVICE explicit Walk(int run) : run(run), end(run) {}

  template <int elements>
  LASFAST_DEVICE void advance(int width, int height) {
    for (channel += elements; channel >= end; channel -= run) {
      if (++column < width) continue;
      column = 0;
      if (++row < height) continue;
      row = 0;
      channel += run;
      end += run;
    }
  }
};

}  // namespace lasfast
