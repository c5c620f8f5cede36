// What runs the weight gradient of a convolution on dense NHWC values, as PODs: a product of two matrices,
// left^T * right, for each tap of the kernel. One side is the input, the other the gradient of the output;
// the sum is over images and output positions.
//
// An instruction that sums several products sums them over images: over 32 by tiles, over two by pairs of
// bf16; vectors of fp32 take one. So a tap, whatever the stride, is but another position of the left side,
// and what falls into the padding is not computed:
//   left   [columns of the padded row][channels][images]
//   right  by tiles [position][channels / 16][pairs of images][16 channels][2],
//          by vectors [channels / 32][position][32 channels][images]
// The channels of the kernel's columns, which are neighbours on the left, are one row of sums:
//   sums   by tiles [kernel][left tiles of column, channel][right tiles][16][16],
//          by vectors [kernel][left tiles][16][right tiles][16]
//
// Included by files compiled for different instruction sets: plain structs only, nothing inline.
#pragma once

#include <cstdint>

#include "vec.h"

namespace lasfast {

struct GradWeightSide {
  const void* values;          // of the first image, row, column and channel
  int64_t image, row, column;  // elements from one to the next
  int64_t channels;            // neighbours in memory
};

// Some images, and some channels of the left side. A Value is that of one channel at one position, of as many
// images as are summed over at a time.
struct GradWeightItem {
  GradWeightSide left, right;
  int64_t images;
  int64_t left_height, left_width, out_height, out_width;
  int64_t kernel, stride, padding;
  int64_t groups, band;         // at a time: of such images; output rows, which are all where groups > 1
  int64_t left_row, left_rows;  // Values of a row, and rows that a group of images has room for
  int64_t left_group;           // Values from one group to the next
  int64_t left_tiles, right_tiles;
  void *left_scratch, *right_scratch;
  float* sums;  // overwritten
};

// The same by Winograd's algorithm (see WinogradBlock in schedule_kernels.h): tiles of inputs and of the
// gradient are transformed; at each position of a transformed tile, the sum over tiles is a product of two
// matrices; and the sums, transformed back, are the gradient of the weight.
//   left   [positions][tiles][left_pitch]
//   right  [panels of 32 right channels, or of 16 if there are no more][positions][tiles][panel]
//   sums   [panels][positions][left channels][panel]
struct WinogradGradWeightItem {
  GradWeightSide input, grad;  // of the first image, row, and channel that the item has
  int64_t side;                // 2 or 4
  int64_t in_height, in_width, out_height, out_width, padding;
  int64_t rows, cols;                           // of tiles, of an image
  int64_t first, tiles;                         // the item's, numbered by image, row and column
  int64_t block;                                // tiles at a time
  int64_t left_pitch, left_plane, right_plane;  // floats from tile to tile, and from position to position
  float *left_scratch, *right_scratch;
  float* sums;  // overwritten
};

// What the sums of `parts` items, which are added up in order, give for some right channels.
struct WinogradGradWeightSums {
  const float* sums;  // of the first left channel and position
  int64_t side, parts, part_floats, plane, panel;
  int64_t left_channels;
  int64_t row_floats, column_floats;  // from one row and column of the kernel to the next
  float* taps;                        // [3][3][left channels][16], overwritten
};

// The sums of `parts` items, which are added up in order, and where they are stored.
struct GradWeightResult {
  const float* sums;
  int64_t parts, part_floats;
  int64_t left_floats, right_floats, row_floats;  // from one tile, and row of a tile, to the next
  int64_t kernel, left_channels, right_channels, left_tiles, right_tiles;
  float* result;  // of the first left and right channel
  int64_t left_step, right_step, row_step, column_step;
};

struct GradWeightKernels {
  int64_t images;       // that are summed over at a time
  int64_t value_bytes;  // of a Value
  bool tiles;
  void (*run)(const GradWeightItem&);
  void (*store)(const GradWeightResult&, int64_t right_tile);  // what one tile of right channels gives
  // Of fp32 values alone.
  void (*run_winograd)(const WinogradGradWeightItem&);
  void (*transform_winograd)(const WinogradGradWeightSums&);
};

// Weights of up to 16 output channels as pairs of input channels, [piece of 16 pairs][tap][pair][16][2];
// steps say how many elements lie from one to the next.
struct PackPairs {
  const void* weight;  // fp32 or bf16
  bool bf16;
  int64_t outs, channels, out_step, in_step;
  const int64_t* tap_offset;  // elements; < 0: there is none, and all weights are zero
  int64_t taps;
  int64_t pairs;  // of channels, and of zeros behind them
  int64_t piece_step, tap_step, pair_step;
  Bf16* packed;
};

constexpr int64_t left_slack = 16;  // Values, readable behind the last row

extern const GradWeightKernels generic_grad_weight_kernels;
extern const GradWeightKernels avx2_grad_weight_kernels;
extern const GradWeightKernels avx512_grad_weight_kernels;
extern const GradWeightKernels avx512_bf16_grad_weight_kernels;  // these two on bf16, the others on fp32
extern const GradWeightKernels amx_grad_weight_kernels;
extern const GradWeightKernels neon_grad_weight_kernels;       // on fp32
extern const GradWeightKernels neon_bf16_grad_weight_kernels;  // on bf16
void avx512_bf16_pack_pairs(const PackPairs& a);

}  // namespace lasfast
