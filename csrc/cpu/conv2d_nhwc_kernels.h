// What runs the weight gradient of a convolution on dense NHWC bf16 values by tiles, as PODs: a product of
// two matrices, left^T * right, for each tap of the kernel. One side is the input, the other the gradient of
// the output; the sum is over images and output positions.
//
// Thirty-two images at a time are what a tile's products are summed over, so that a tap, whatever the stride,
// is but another position of the left side, and what falls into the padding is not computed:
//   left   [columns of the padded row][channels][32 images]
//   right  [position][channels / 16][16 pairs of images][16 channels][2]
// The channels of the kernel's columns, which are neighbours on the left, are one row of sums:
//   sums   [kernel][left tiles of column, channel][right tiles][16][16]
//
// Included by files compiled for different instruction sets: plain structs only, nothing inline.
#pragma once

#include <cstdint>

#include "vec.h"

namespace lasfast {

struct GradWeightSide {
  const Bf16* values;          // of the first image, row, column and channel
  int64_t image, row, column;  // elements from one to the next
  int64_t channels;            // neighbours in memory
};

// Some images, and some channels of the left side.
struct GradWeightItem {
  GradWeightSide left, right;
  int64_t images;
  int64_t left_height, left_width, out_height, out_width;
  int64_t kernel, stride, padding;
  int64_t groups, band;         // at a time: of 32 images; output rows, which are all where groups > 1
  int64_t left_row, left_rows;  // elements of a row, and rows that a group of images has room for
  int64_t left_tiles, right_tiles;
  Bf16 *left_scratch, *right_scratch;
  float* sums;  // overwritten
};

// Adds the sums of `parts` items up, in order, and stores them.
struct GradWeightResult {
  const float* sums;
  int64_t parts, part_floats;
  int64_t kernel, left_channels, right_channels, left_tiles, right_tiles;
  float* result;  // of the first left and right channel
  int64_t left_step, right_step, row_step, column_step;
};

struct GradWeightKernels {
  void (*run)(const GradWeightItem&);
  void (*store)(const GradWeightResult&, int64_t right_tile);  // what one tile of right channels gives
};

// Weights of up to 16 output channels, in pieces of 32 input channels: of each, all taps' tiles.
struct PackTiles {
  const void* weight;  // fp32 or bf16
  bool bf16;
  int64_t outs, channels, out_step, in_step;
  const int64_t* tap_offset;  // elements; < 0: there is none, and all weights are zero
  int64_t taps;
  Bf16* packed;
};

constexpr int64_t images_together = 32;
constexpr int64_t right_together = 2;                 // tiles of right channels that are packed at a time
constexpr int64_t left_slack = 16 * images_together;  // elements, readable behind the last row

extern const GradWeightKernels amx_grad_weight_kernels;
void amx_pack_tiles(const PackTiles& a);

}  // namespace lasfast
