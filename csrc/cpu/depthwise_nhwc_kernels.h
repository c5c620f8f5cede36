// The loops of depthwise_nhwc.cpp, as POD arguments and a table of functions per instruction set.
//
// A vector holds `width` neighbouring channels. Vector v covers those from min(v * width, channels - width)
// on: the last one overlaps the one before it, which costs less than partial loads; fewer channels than one
// vector take a path of their own. What is kept per vector (packed weights, sums) has a slot of `width`
// floats for each.
//
// Included by files compiled for different instruction sets: plain structs only, nothing inline.
#pragma once

#include <cstdint>

#include "lasfast/activation.h"

namespace lasfast {

// Memory that the next piece uses, read and written or read twice: prefetched evenly while this one is worked
// on. A vector of channels at a time reads memory in an order that the processor does not foresee.
struct DepthwiseAhead {
  const void* first;
  const void* second;
  int64_t first_bytes, second_bytes;
};

// A piece of work: some whole images, or a band of rows of one.
struct DepthwiseArgs {
  const void* from;  // the images that are read: of the input, or of the output's gradient
  void* to;          // the images that are written: of the output, or of the input's gradient
  int64_t images, channels;
  int64_t height, width;          // of the input
  int64_t out_height, out_width;  // of the output
  int64_t kernel, stride, padding;
  int64_t row, rows;  // of the band, in what is written
  DepthwiseAhead ahead;

  // [vectors][kernel * kernel][width]. For the input's gradient the taps are in order of phases: those of
  // rows a, a + stride, ... and columns b, b + stride, ... for each a, b < stride, either from the last to
  // the first: input positions of one phase are a correlation of stride 1.
  const float* weight;

  float* mean;  // [vectors][width] of this piece, with the sum of squared deviations; null: not wanted
  float* squares;

  // What is stored: activation(scale * sum + shift), [vectors][width] each; null: the sum.
  const float *scale, *shift;
  Activation activation;
};

// sums[v][r][s] (+)= sum over the piece's output positions of grad_output * input, at tap r, s.
struct DepthwiseWeightArgs {
  const void* grad_output;
  const void* input;
  int64_t images, channels;
  int64_t height, width, out_height, out_width;
  int64_t kernel, stride, padding;
  int64_t row, rows;  // of the band, in grad_output
  DepthwiseAhead ahead;
  int64_t vector, vectors;  // the first, and how many
  bool accumulate;          // else overwrite
  float* sums;              // [all vectors][kernel * kernel][width]
};

struct DepthwiseKernels {
  struct Passes {
    void (*forward)(const DepthwiseArgs&);
    void (*grad_input)(const DepthwiseArgs&);
    void (*grad_weight)(const DepthwiseWeightArgs&);
  };
  int width;
  Passes passes[2];  // by the Dtype of the values
};

extern const DepthwiseKernels generic_depthwise_kernels;
extern const DepthwiseKernels avx2_depthwise_kernels;
extern const DepthwiseKernels avx512_depthwise_kernels;
extern const DepthwiseKernels avx512_bf16_depthwise_kernels;  // for amx, too
extern const DepthwiseKernels neon_depthwise_kernels;
extern const DepthwiseKernels neon_bf16_depthwise_kernels;

}  // namespace lasfast
