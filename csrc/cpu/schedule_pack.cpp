// Packing of weights for the kernels of a schedule, once per plan.
//
//   depthwise         [channels / W][taps][W] fp32
//   dense, vectors    [blocks of 2 W output channels, a last one of W where that is enough][taps][in][block]
//                     fp32
//   dense, tiles      [output channels / 16][steps][16 pairs][16 output channels][2] bf16: what a step's tile
//                     of inputs is multiplied by
#include <algorithm>
#include <cstring>

#include "schedule_check.h"
#include "schedule_layout.h"

namespace lasfast {
namespace {

uint16_t to_bf16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// The weight as [out][row][column][channel of a cell].
struct Source {
  const DensePlan& plan;
  const Operation& op;
  const Value& input;
  const float* weight;
  const int64_t* stride;

  // Elements from an output channel's first to this one; -1 where there is none.
  int64_t place(int64_t row, int64_t column, int64_t channel) const {
    if (channel >= plan.channels) return -1;
    if (plan.depthwise) channel = 0;
    if (plan.flatten)  // positions last in torch's order, first in ours
      channel = channel % input.channels * input.height * input.width + channel / input.channels;
    return channel * stride[1] + row * stride[2] + column * stride[3];
  }
  float operator()(int64_t out, int64_t place) const {
    return out < op.out_channels && place >= 0 ? weight[out * stride[0] + place] : 0.f;
  }
};

void pack_vectors(const Source& source, int64_t width, float* packed) {
  const DensePlan& plan = source.plan;
  for (int64_t o = 0; o < source.op.out_channels;) {
    const int64_t block = plan.depthwise || source.op.out_channels - o <= width ? width : 2 * width;
    for (int64_t r = 0; r < plan.kernel; ++r)
      for (int64_t s = 0; s < plan.kernel; ++s)
        for (int64_t c = 0; c < (plan.depthwise ? 1 : plan.channels); ++c) {
          const int64_t place = source.place(r, s, c);
          for (int64_t i = 0; i < block; ++i) *packed++ = source(o + i, place);
        }
    o += block;
  }
}

// What a step's value number k is multiplied by: a weight, times a factor.
struct Factor {
  int64_t place;
  float factor;
};

Factor tile_factor(const Source& source, int64_t step, int64_t k) {
  const DensePlan& plan = source.plan;
  const int64_t kernel = plan.kernel, taps = kernel * kernel;
  const int64_t piece = std::min(step / taps, plan.cells.chunks - 1);
  const bool last = piece == plan.cells.chunks - 1;
  const int64_t columns = last ? plan.cells.columns : 1, depth = tile_depth / columns;
  const int64_t row_taps = last ? plan.row_taps() : kernel, tap = step - piece * taps;
  // The last tap of a row may begin before the one ahead of it ends. What both hold counts half in each,
  // which is exact; a zero weight there would turn an infinite input beyond the window into NaN.
  const auto first = [&](int64_t i) { return std::max<int64_t>(0, std::min(i * columns, kernel - columns)); };
  const int64_t i = tap % row_taps, column = first(i) + k / depth;
  if (column >= kernel) return {-1, 1.f};
  const bool twice =
      (i + 1 < row_taps && column >= first(i + 1)) || (i > 0 && column < first(i - 1) + columns);
  return {source.place(tap / row_taps, column, piece * tile_depth + k % depth), twice ? 0.5f : 1.f};
}

int64_t tile_steps(const DensePlan& plan) {
  return plan.kernel * (plan.kernel * (plan.cells.chunks - 1) + plan.row_taps());
}

void pack_tiles(const Source& source, uint16_t* packed) {
  const int64_t steps = tile_steps(source.plan);
  for (int64_t o = 0; o < source.op.out_channels; o += tile_cells)
    for (int64_t step = 0; step < steps; ++step)
      for (int64_t k = 0; k < tile_depth; k += 2) {
        const Factor first = tile_factor(source, step, k), second = tile_factor(source, step, k + 1);
        for (int64_t i = o; i < o + tile_cells; ++i) {
          *packed++ = to_bf16(first.factor * source(i, first.place));
          *packed++ = to_bf16(second.factor * source(i, second.place));
        }
      }
}

}  // namespace

int64_t schedule_packed_bytes_cpu(const Operation& op, const Value& input, Storage storage, Isa isa) {
  if (!check_weighted(op, input).ok() || !isa_compiled(isa)) return 0;
  const DensePlan plan(op, input, storage, isa, 1);
  if (plan.tiles) return tile_steps(plan) * tile_depth * round_to(op.out_channels, tile_cells) * 2;
  const int64_t per_channel = plan.kernel * plan.kernel * (plan.depthwise ? 1 : plan.channels);
  return round_to(per_channel * round_to(op.out_channels, schedule_kernels(isa).width) * 4, scratch_line);
}

Status schedule_pack_cpu(const Operation& op, const Value& input, Storage storage, Isa isa,
                         const float* weight, const int64_t weight_stride[4], void* packed) {
  if (const Status status = check_weighted(op, input); !status.ok()) return status;
  if (!isa_compiled(isa)) return unsupported("this build lacks the instruction set asked for");
  if (!weight || !packed) return invalid("the weight or its packed form is missing");
  const DensePlan plan(op, input, storage, isa, 1);
  const Source source{plan, op, input, weight, weight_stride};
  if (plan.tiles)
    pack_tiles(source, static_cast<uint16_t*>(packed));
  else
    pack_vectors(source, schedule_kernels(isa).width, static_cast<float*>(packed));
  return {};
}

}  // namespace lasfast
