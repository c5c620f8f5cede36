// Packs the weights of a schedule's operations: those of depthwise convolutions as [channels / W][taps][W]
// fp32, the others as schedule_pack.h says.
#include "schedule_pack.h"

#include "schedule_check.h"
#include "winograd_layout.h"

namespace lasfast {
namespace {

// The weight by output channel, row and column, and channel of a cell.
struct Source {
  const CellConvolution& conv;
  const Value& input;
  const float* weight;
  const int64_t* stride;

  float operator()(int64_t out, int64_t row, int64_t column, int64_t channel) const {
    if (conv.flatten)  // positions last in torch's order, first in ours
      channel = channel % input.channels * input.height * input.width + channel / input.channels;
    return weight[out * stride[0] + channel * stride[1] + row * stride[2] + column * stride[3]];
  }
};

}  // namespace

int64_t schedule_packed_bytes_cpu(const Operation& op, const Value& input, Dtype storage, Isa isa) {
  if (!check_weighted(op, input).ok() || !isa_compiled(isa) || !check_winograd(op, storage, isa).ok())
    return 0;
  if (op.tile) return WinogradConvolution(op, input, storage, isa, 1).packed_bytes;
  const CellConvolution conv(op, input, storage, isa, 1);
  if (conv.tiles) return tile_steps(conv) * tile_depth * round_to(op.out_channels, tile_cells) * 2;
  const int64_t per_channel = conv.kernel * conv.kernel * (conv.depthwise ? 1 : conv.cells.size);
  return round_to(per_channel * round_to(op.out_channels, schedule_kernels(isa).width) * 4, scratch_line);
}

Status schedule_pack_cpu(const Operation& op, const Value& input, Dtype storage, Isa isa, const float* weight,
                         const int64_t weight_stride[4], void* packed) {
  if (const Status status = check_weighted(op, input); !status.ok()) return status;
  if (const Status status = check_winograd(op, storage, isa); !status.ok()) return status;
  if (!isa_compiled(isa)) return unsupported("this build lacks the instruction set asked for");
  if (!weight || !packed) return invalid("the weight or its packed form is missing");
  if (op.tile) {
    const int64_t* step = weight_stride;
    const WinogradWeight whole = {weight,  step[0],         step[1],       step[2],
                                  step[3], op.out_channels, input.channels};
    pack_winograd(whole, op.tile, by_pairs(storage, isa), schedule_kernels(isa).width, 1, packed);
    return {};
  }
  const CellConvolution conv(op, input, storage, isa, 1);
  const Source source{conv, input, weight, weight_stride};
  if (conv.pairs) {
    pack_pairs(conv, op.out_channels, schedule_kernels(isa).width, source, static_cast<uint16_t*>(packed));
    return {};
  }
  if (!conv.tiles) {
    pack_vectors(conv, op.out_channels, schedule_kernels(isa).width, source, static_cast<float*>(packed));
    return {};
  }
  auto* tiles = static_cast<uint16_t*>(packed);
  for (int64_t o = 0; o < op.out_channels; o += tile_cells, tiles += tile_steps(conv) * tile_values)
    pack_tiles(conv, op.out_channels, o, 0, source, tiles);
  return {};
}

}  // namespace lasfast
