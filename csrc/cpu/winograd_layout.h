// How a convolution is cut into items, blocks and scratch for Winograd's algorithm: what packing, checking
// and running agree on (see WinogradBlock). (conv2d_nhwc_winograd_weight.cpp has that for the gradient of the
// weight.)
#pragma once

#include <algorithm>
#include <cstdint>

#include "schedule_layout.h"

namespace lasfast {

// So many tiles fill the registers of every instruction set; blocks are multiples, as many as leave what is
// between the transforms in a core's cache. Weights that have no room there are read once a block: then it
// has twice as many tiles at least. (All were measured.)
constexpr int64_t winograd_tiles = 24;
constexpr int64_t winograd_far_bytes = 4 << 20;  // of weights
constexpr int64_t winograd_most_images = 16;     // of an item

// So many floats or a few more: an odd number of lines, so that what lies at the same place of all planes is
// of different cache sets.
inline int64_t odd_lines(int64_t floats) {
  constexpr int64_t line = scratch_line / 4;
  return (divide_up(floats, line) / 2 * 2 + 1) * line;
}

struct WinogradConvolution {
  WinogradBlock block;
  int64_t item_images;
  int64_t block_bytes, packed_bytes;

  // `images`: how many there are to compute.
  WinogradConvolution(const Operation& op, const Value& input, Dtype storage, Isa isa, int64_t images)
      : block{} {
    const int64_t positions = (op.tile + 2) * (op.tile + 2), width = schedule_kernels(isa).width;
    const int64_t in = by_pairs(storage, isa) ? divide_up(input.channels, 2) : input.channels;
    const int64_t out = round_to(op.out_channels, width);
    block.cells = in;
    block.side = op.tile;
    block.rows = divide_up(input.height + 2 * op.padding - 2, op.tile);
    block.cols = divide_up(input.width + 2 * op.padding - 2, op.tile);
    const int64_t each = block.rows * block.cols, most = std::min(images, winograd_most_images);
    packed_bytes = round_to(positions * in * out * 4, scratch_line);
    const int64_t fitting = cell_budget_bytes / (positions * (in + out) * 4) / winograd_tiles;
    const int64_t least = packed_bytes > winograd_far_bytes ? 2 : 1;
    const int64_t tiles = winograd_tiles * std::max(least, fitting);
    // As many images as fill a block, or all images in items of about the same size.
    item_images = std::min(most, divide_up(tiles, each));
    item_images = divide_up(images, divide_up(images, item_images));
    block.tiles = std::min(tiles, item_images * each);
    block.input_plane = odd_lines(block.tiles * in);
    block.product_plane = odd_lines(block.tiles * out);
    block_bytes = round_to(positions * (block.input_plane + block.product_plane) * 4, scratch_line);
  }
};

}  // namespace lasfast
