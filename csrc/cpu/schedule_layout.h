// How an operation is cut into items, cells and scratch: what packing, checking and running agree on.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "lasfast/round.h"
#include "lasfast/schedule.h"
#include "schedule_kernels.h"
#include "scratch.h"

namespace lasfast {

constexpr int64_t cell_budget_bytes = 384 << 10;  // of cells at a time: they should stay in a core's cache
constexpr int64_t near_budget_bytes = 24 << 10;   // the same for the first level, where bands share no rows
constexpr int64_t large_weight_bytes = 1 << 20;   // which then should not be read for every few positions
constexpr int64_t tile_images = 16;               // of one item by tiles: its bands follow one another
constexpr int64_t depthwise_rows = 4;             // of outputs at a time, at most
constexpr int64_t tile_cells = 16, tile_depth = 32;  // of a tile: rows, and bf16 values per row

static_assert(max_kernel == schedule_max_kernel);

const ScheduleKernels& schedule_kernels(Isa isa);  // isa is compiled in

inline bool by_tiles(Dtype storage, Isa isa) { return storage == Dtype::bfloat16 && isa == Isa::amx; }
inline bool by_pairs(Dtype storage, Isa isa) {
  return storage == Dtype::bfloat16 && multiplies_bf16(isa) && isa != Isa::amx;
}

// Returns whether `other` is an operand of the operation; else it is added to its result.
inline bool is_binary(const Operation& op) { return op.kind == Kind::gate || op.kind == Kind::arrange; }

// An arrangement lays its sources side by side in rows, one for each position of a run, so many floats apart.
// `channels`: of both sources.
inline int64_t arrange_pitch(int64_t channels) { return round_to(channels, 16); }

// Scratch memory of a gate is for its factors; that of an arrangement for rows, readable a vector beyond the
// last, and for where in a row each output channel is. `channels`: of input and other.
inline int64_t channel_scratch_bytes(const Operation& op, int64_t channels) {
  const int64_t own = round_to(op.out_channels, 16) * 4;
  if (op.kind == Kind::gate) return own;
  return (run_length * arrange_pitch(channels) + 16) * 4 + own;
}

inline bool is_depthwise(const Operation& op) { return op.kind == Kind::conv2d && op.groups > 1; }

// A convolution as it runs on cells (see schedule_kernels.h). A linear operation is a 1x1 convolution on
// images of one position.
struct CellConvolution {
  int64_t kernel, stride, padding, channels;  // channels: of one cell, before rounding up
  int64_t out_height, out_width;
  bool flatten, depthwise, tiles, pairs;
  Cells cells;
  int64_t cell_bytes;

  // `images`: how many there are to interleave.
  CellConvolution(const Operation& op, const Value& input, Dtype storage, Isa isa, int64_t images);

  int64_t item_images() const { return tiles ? round_to(tile_images, cells.group) : cells.group; }
  int64_t row_taps() const { return divide_up(kernel, cells.columns); }  // of the last piece

 private:
  // Returns how many positions of an axis so many outputs take, in each phase.
  int64_t padded(int64_t outputs) const {
    return depthwise ? (outputs - 1) * stride + kernel : outputs + divide_up(kernel, stride) - 1;
  }
  int64_t bytes(int64_t band, int64_t group) const;
};

inline int64_t CellConvolution::bytes(int64_t band, int64_t group) const {
  const int64_t elements = tiles ? cells.chunks * tile_depth : cells.size;
  return cells.phases * padded(band) * cells.phases * padded(out_width) * group * elements * (tiles ? 2 : 4);
}

inline CellConvolution::CellConvolution(const Operation& op, const Value& input, Dtype storage, Isa isa,
                                        int64_t images)
    : kernel(op.kernel),
      stride(op.stride),
      padding(op.padding),
      channels(input.channels),
      flatten(op.kind == Kind::linear),
      depthwise(is_depthwise(op)),
      tiles(by_tiles(storage, isa) && !depthwise),
      pairs(by_pairs(storage, isa) && !depthwise),
      cells{},
      cell_bytes(0) {
  if (flatten) {
    kernel = stride = 1;
    padding = 0;
    channels = int64_t{input.channels} * input.height * input.width;
  }
  out_height = flatten ? 1 : (input.height + 2 * padding - kernel) / stride + 1;
  out_width = flatten ? 1 : (input.width + 2 * padding - kernel) / stride + 1;
  cells.phases = depthwise ? 1 : std::min(kernel, stride);
  cells.size = depthwise ? schedule_kernels(isa).width : pairs ? divide_up(channels, 2) : channels;
  cells.columns = 1;
  if (tiles) {
    const int64_t last = (channels - 1) % tile_depth + 1;
    if (kernel > 1) cells.columns = last <= 4 ? 8 : last <= 8 ? 4 : last <= 16 ? 2 : 1;
    cells.chunks = divide_up(channels, tile_depth);
    cells.plane = tile_depth;
    cells.size = flatten ? cells.chunks * tile_depth : tile_depth;
  }

  // Rows that leave tiles or registers part empty are filled up with the rows of other images.
  const bool folded = tiles && kernel == 1 && stride == 1 && !flatten;
  const int64_t length = kernel == 1 ? out_height * out_width : out_width;
  int64_t group = 1;
  if (!depthwise && !folded) {
    const int64_t most = std::min<int64_t>(tile_cells, images);
    double best = 0;
    for (int64_t g = 1; g <= most && best < 1; ++g) {
      if (g > 1 && bytes(out_height, g) > cell_budget_bytes) break;
      const int64_t unit = tiles ? tile_cells : 4;
      const int64_t spent = std::max<int64_t>(round_to(length * g, unit), 12);
      const double use = static_cast<double>(length * g) / static_cast<double>(spent);
      if (use > 1.05 * best || use == 1) best = use, group = g;
    }
  }
  cells.group = group;
  cells.band = out_height;
  const bool large = channels * op.out_channels * 2 > large_weight_bytes;
  const int64_t near_budget = large ? cell_budget_bytes : near_budget_bytes;
  if (folded) {  // images are rows of one image, bands whole strips
    const int64_t unit = 2 * tile_cells / std::gcd(2 * tile_cells, out_width);
    cells.band = std::max<int64_t>(unit, near_budget / bytes(1, 1) / unit * unit);
    cells.band = std::min(cells.band, out_height * std::min(images, tile_images));
  } else {
    const int64_t budget = tiles && kernel == 1 ? near_budget : cell_budget_bytes;
    while (cells.band > 1 && bytes(cells.band, group) > budget) cells.band = (cells.band + 1) / 2;
  }
  cells.rows = padded(cells.band);
  cells.cols = padded(out_width);
  if (tiles && !flatten)
    cells.plane = cells.phases * cells.rows * cells.phases * cells.cols * group * tile_depth;
  cell_bytes = round_to(bytes(cells.band, group) + cell_slack_bytes, scratch_line);
  if (tiles) {
    cells.room = cell_bytes / 2;
    cell_bytes *= 2;
  }
  if (depthwise) {
    cells.room = cell_bytes / 4;
    cell_bytes += depthwise_rows * out_width * cells.size * 4;
  }
}

}  // namespace lasfast
