// What runs one operation of a schedule on one item (a few images), as a POD and a table of functions per
// instruction set.
//
// A convolution first copies its input, normalised, rectified and padded, into *cells*: one per padded
// position, the channels of an image contiguous. `group` images are interleaved, position by position, so
// that rows of small images fill registers too; with a stride s, rows and columns are parted into s phases
// (but of depthwise convolutions, whose cells are the padded positions as they come, W channels at a time).
// Then each tap of the kernel is a constant shift, and neighbouring outputs read neighbouring cells:
//   cell(r, x, g) = (((r % s * rows + r / s) * phases + x % s) * cols + x / s) * group + g
// where r, x count padded rows of the band and padded columns.
//
// For pairs two channels of a cell, a last one with a zero beside it, are one element.
//
// For tiles a cell is cut into pieces of 32 channels, and the same piece of all cells lies together, since
// neighbours are then next to each other whatever the number of channels. Where the last piece has 16
// channels or fewer, it holds those of the next columns, too: of 2, 4 or 8 columns in all, as many as have
// room. A tap is then as many columns wide.
//
// Included by files compiled for different instruction sets: plain structs only, nothing inline.
#pragma once

#include <cstdint>

#include "lasfast/activation.h"
#include "vec.h"

namespace lasfast {

struct Affine {
  const float* scale;  // [channels]; null: none
  const float* shift;
  Activation activation;
};

struct Cells {
  int64_t group, phases, rows, cols;  // rows, cols: per phase
  int64_t size;           // elements from cell to cell: of fp32, of pairs of bf16, for tiles of bf16
  int64_t chunks, plane;  // for tiles: pieces of 32 values, and elements from one to the next
  int64_t columns;        // for tiles: how many a cell of the last piece holds
  int64_t room;  // elements from one band's cells to those of the next (tiles) or to sums (depthwise)
  int64_t band;  // output rows at a time
};

enum class Task : int32_t {
  input,
  dense,
  depthwise,
  max_pool,
  avg_pool,
  global_pool,
  combine,
  gate,
  arrange,
  winograd
};

// Winograd's minimal filtering algorithm (Lavin and Gray 2016) computes side x side outputs of a 3x3
// convolution from (side + 2) x (side + 2) inputs. Tiles of inputs are transformed; at each position of a
// transformed tile, what all tiles have there is a matrix [tiles, channels] that is multiplied by one of
// transformed weights; and the products, transformed back, are tiles of outputs.
//
// The item's tiles are numbered by image, row and column. A block of them is computed at a time: the
// transformed inputs [positions][tiles][cells], `input_plane` cells from position to position, then the
// products [positions][blocks of channels as weights have them][tiles][block], `product_plane` floats apart.
// A cell is a channel in fp32 or, where bf16 values are multiplied by pairs, two channels.
struct WinogradBlock {
  int64_t side;        // 2 or 4
  int64_t rows, cols;  // of tiles, of an image
  int64_t tiles;       // at a time
  int64_t cells;       // of a tile's position
  int64_t input_plane, product_plane;
};

struct TapRange {
  int64_t first, last;  // both included
};

struct ItemArgs {
  Task task;          // dense: convolution and linear
  int64_t images;     // of this item; 1 but for dense
  const void* input;  // [images, in_height, in_width, in_channels] (Task::input: NCHW)
  const void* other;  // [images, out_height, out_width, other_channels] (gate: [images, channels]), or null
  void* output;       // [images, out_height, out_width, out_channels]
  int64_t in_channels, in_height, in_width;
  int64_t out_channels, out_height, out_width;
  int64_t other_channels;
  int64_t kernel, stride, padding;
  int64_t first, groups;  // of an arrangement
  bool flatten;           // linear: all positions of an image are one cell
  Affine in, with, out;
  const float* bias;    // [out_channels], or null
  const float* pixels;  // of Task::input: what bytes stand for (ScheduleTables), or null
  const void* weight;   // packed
  Cells cells;
  WinogradBlock winograd;
  // Where cells hold one column: output channels come in phases * phases parts of a multiple of a vector's
  // width, each of which has but those taps whose row and column are in its two ranges. 0: all have all.
  int64_t phases;
  const TapRange* tap_ranges;
  // Of gates and arrangements: see channel_scratch_bytes; of Winograd's algorithm: the block.
  void* cell_scratch;
  float* sums;     // [3, channels rounded up to vectors]: shift, sum and sum of squares of statistics
  float* partial;  // [2, out_channels]: mean, and sum of squared deviations; null: no statistics
};

struct ScheduleKernels {
  int width;  // floats per vector; weights of convolutions are packed in blocks of two vectors, then one
  // By storage, and whether the output is fp32 all the same.
  void (*run_f32)(const ItemArgs&);
  void (*run_bf16)(const ItemArgs&);
  void (*run_bf16_f32)(const ItemArgs&);
};

constexpr int64_t cell_slack_bytes = 4096;  // readable behind the cells
constexpr int max_kernel = 11;
constexpr int run_length = 16;  // positions at a time where nothing else decides

extern const ScheduleKernels generic_schedule_kernels;
extern const ScheduleKernels avx2_schedule_kernels;
extern const ScheduleKernels avx512_schedule_kernels;
extern const ScheduleKernels avx512_bf16_schedule_kernels;  // dense ones on bf16 by pairs
extern const ScheduleKernels amx_schedule_kernels;          // dense convolutions on bf16 by tiles
extern const ScheduleKernels neon_schedule_kernels;
extern const ScheduleKernels neon_bf16_schedule_kernels;  // dense ones on bf16 by pairs

}  // namespace lasfast
