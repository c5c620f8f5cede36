// The loops of grouped_nhwc.cpp, as POD arguments and a table of functions per instruction set.
//
// A vector of results holds up to `width` neighbouring channels: of one group, or of two or four whole ones
// that fill it. What it is computed from is copied into scratch memory first, as fp32: of a band of rows of
// some images, the channels that belong to the vector. A product takes a vector of weights with an input in
// all lanes. Of several groups, lanes take turns: lane l is one of group l % groups, so that input i of each
// group, which are neighbours in the copy, are repeated through the vector as one is.
//
// Included by files compiled for different instruction sets: plain structs only, nothing inline.
#pragma once

#include <cstdint>

#include "lasfast/activation.h"

namespace lasfast {

// One side of a convolution: its images, from the first channel that counts.
struct GroupedSide {
  int64_t height, width;
  int64_t image, row, column;  // elements from one to the next
};

// The channels of a vector, and those that they are computed from.
struct GroupedChannels {
  int64_t count;  // results
  int64_t reads,
      pitch;       // channels read at each position, and floats from one position to the next in scratch
  int64_t depth;   // inputs that each result sums over, at each tap
  int64_t groups;  // 1, 2 or 4; of several, the results of each are as many as the inputs
  // [width], of several groups: the channel of each lane, and the lane of each channel.
  const int32_t *to_lanes, *to_channels;
};

// One vector of channels of a band of rows of some images.
struct GroupedArgs {
  const void* from;
  void* to;
  GroupedSide read, written;
  GroupedChannels channels;
  int64_t images;
  int64_t kernel, stride, padding;
  int64_t row, rows;  // of the band, in what is written

  // [kernel][depth][kernel][lanes]; for the input's gradient in order of phases, of which each is
  // [its rows][depth][its columns][lanes]: taps of rows a, a + stride, ... and columns b, b + stride, ... for
  // each a, b < stride, either from the last to the first.
  const float* weight;
  float* scratch;

  float* mean;  // [width] of this band, with the sum of squared deviations; null: not wanted
  float* squares;

  // What is stored: activation(scale * sum + shift), [width] each; null: the sum.
  const float *scale, *shift;
  Activation activation;
};

// sums[i][r][s] (+)= sum over the band's output positions of grad_output * input i, at tap r, s.
struct GroupedWeightArgs {
  const void *grad_output, *input;
  GroupedSide grad, read;
  GroupedChannels channels;
  int64_t images;
  int64_t kernel, stride, padding;
  int64_t row, rows;  // of the band, in grad_output
  float *scratch, *grad_scratch;
  bool accumulate;  // else overwrite
  float* sums;      // [depth][kernel * kernel][lanes]
};

struct GroupedKernels {
  struct Passes {
    void (*forward)(const GroupedArgs&);
    void (*grad_input)(const GroupedArgs&);
    void (*grad_weight)(const GroupedWeightArgs&);
  };
  int width;
  Passes passes[2];  // by the Dtype of the values
};

extern const GroupedKernels generic_grouped_kernels;
extern const GroupedKernels avx2_grouped_kernels;
extern const GroupedKernels avx512_grouped_kernels;
extern const GroupedKernels avx512_bf16_grouped_kernels;  // for amx, too
extern const GroupedKernels neon_grouped_kernels;
extern const GroupedKernels neon_bf16_grouped_kernels;

}  // namespace lasfast
