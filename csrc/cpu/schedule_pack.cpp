// Packing of weights for the kernels of a schedule, once per plan.
// (`depthwise`: [channels / W][taps][W] fp32; see schedule_pack.h for the others.)
#include "schedule_pack.h"

#include "schedule_check.h"

namespace lasfast {
namespace {

// The weight by output channel, row and column, and channel of a cell.
struct Source {
  const DensePlan& plan;
  const Value& input;
  const float* weight;
  const int64_t* stride;

  float operator()(int64_t out, int64_t row, int64_t column, int64_t channel) const {
    if (plan.flatten)  // positions last in torch's order, first in ours
      channel = channel % input.channels * input.height * input.width + channel / input.channels;
    return weight[out * stride[0] + channel * stride[1] + row * stride[2] + column * stride[3]];
  }
};

}  // namespace

int64_t schedule_packed_bytes_cpu(const Operation& op, const Value& input, Dtype storage, Isa isa) {
  if (!check_weighted(op, input).ok() || !isa_compiled(isa)) return 0;
  const DensePlan plan(op, input, storage, isa, 1);
  if (plan.tiles) return tile_steps(plan) * tile_depth * round_to(op.out_channels, tile_cells) * 2;
  const int64_t per_channel = plan.kernel * plan.kernel * (plan.depthwise ? 1 : plan.cells.size);
  return round_to(per_channel * round_to(op.out_channels, schedule_kernels(isa).width) * 4, scratch_line);
}

Status schedule_pack_cpu(const Operation& op, const Value& input, Dtype storage, Isa isa, const float* weight,
                         const int64_t weight_stride[4], void* packed) {
  if (const Status status = check_weighted(op, input); !status.ok()) return status;
  if (!isa_compiled(isa)) return unsupported("this build lacks the instruction set asked for");
  if (!weight || !packed) return invalid("the weight or its packed form is missing");
  const DensePlan plan(op, input, storage, isa, 1);
  const Source source{plan, input, weight, weight_stride};
  if (plan.pairs) {
    pack_pairs(plan, op.out_channels, schedule_kernels(isa).width, source, static_cast<uint16_t*>(packed));
    return {};
  }
  if (!plan.tiles) {
    pack_vectors(plan, op.out_channels, schedule_kernels(isa).width, source, static_cast<float*>(packed));
    return {};
  }
  auto* tiles = static_cast<uint16_t*>(packed);
  for (int64_t o = 0; o < op.out_channels; o += tile_cells, tiles += tile_steps(plan) * tile_values)
    pack_tiles(plan, op.out_channels, o, 0, source, tiles);
  return {};
}

}  // namespace lasfast
