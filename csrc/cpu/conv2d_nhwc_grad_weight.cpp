// The weight gradient of a convolution on dense NHWC values: how it is cut into items.
//
// An item is some images and some channels of the left side (see conv2d_nhwc_kernels.h), with sums of its
// own, so that threads meet only where the sums of all parts are added up. How many parts there are follows
// from the sizes alone.
#include <algorithm>

#include "conv2d_nhwc_kernels.h"
#include "conv2d_nhwc_layout.h"

namespace lasfast {
namespace {

constexpr int64_t tile = 16, tile_sums = tile * tile;
// Says how many steps a block of sums takes before the next one does: the first-level cache holds their
// operands.
constexpr int64_t tile_steps_together = 16, vector_steps_together = 128;
constexpr int64_t sums_bytes = 1 << 20;  // of an item: they should stay in a core's second-level cache
constexpr int64_t least_slab_of_one = 128, least_slab = 32;  // channels, of a 1x1 kernel and others
constexpr int64_t part_values = 2048, most_items = 8;        // of a part: images' positions

// Says how the work is split into items.
struct GradWeightSplit {
  GradWeightItem item;  // of all images and channels
  bool swapped;         // the left side is the gradient
  int64_t slab, slabs;  // channels of an item, and how many such
  int64_t part_images, parts;
  int64_t left_bytes, right_bytes, part_floats, slab_floats;

  GradWeightSplit(const Conv2dNhwcParams& p, const GradWeightKernels& kernels);

  int64_t scratch_bytes() const { return left_bytes + right_bytes; }
  int64_t slab_channels(int64_t i) const { return std::min(slab, item.left.channels - i * slab); }

 private:
  int64_t tiles_of(int64_t channels) const { return divide_up(item.kernel * channels, tile); }
  int64_t floats_of(int64_t channels) const {
    return item.kernel * tiles_of(channels) * item.right_tiles * tile_sums;
  }
};

GradWeightSplit::GradWeightSplit(const Conv2dNhwcParams& p, const GradWeightKernels& kernels) : item{} {
  GradWeightSide input{nullptr, p.height * p.width * p.c_in, p.width * p.c_in, p.c_in, p.c_in};
  GradWeightSide grad{nullptr, p.out_height * p.out_width * p.c_out, p.out_width * p.c_out, p.c_out, p.c_out};
  item.images = p.batch;
  item.left_height = p.height;
  item.left_width = p.width;
  item.out_height = p.out_height;
  item.out_width = p.out_width;
  item.kernel = p.kernel;
  item.stride = p.stride;
  item.padding = p.padding;
  swapped = false;
  if (p.kernel == 1 && p.padding == 0) {  // no taps: as if there were no other positions than those read
    input.row *= p.stride;
    input.column *= p.stride;
    item.stride = 1;
    item.left_height = p.out_height;
    item.left_width = p.out_width;
    if (p.stride == 1) {  // positions are images
      item.images *= p.height * p.width;
      item.left_height = item.left_width = item.out_height = item.out_width = 1;
      input.image = input.row = input.column;
      grad.image = grad.row = grad.column;
    }
    swapped = p.c_out < p.c_in;  // the left side takes longer to pack
  }
  item.left = swapped ? grad : input;
  item.right = swapped ? input : grad;
  item.right_tiles = divide_up(item.right.channels, tile);

  const int64_t steps_together = kernels.tiles ? tile_steps_together : vector_steps_together;
  const int64_t all_groups = divide_up(item.images, kernels.images);
  const int64_t positions = item.out_height * item.out_width;
  item.groups = std::clamp<int64_t>(steps_together / positions, 1, all_groups);
  item.band = item.groups > 1 ? item.out_height
                              : std::clamp<int64_t>(steps_together / item.out_width, 1, item.out_height);

  slab = item.left.channels;
  const int64_t least = item.kernel == 1 ? least_slab_of_one : least_slab;
  if (slab % tile == 0)
    while (slab > least && floats_of(slab) * int64_t{sizeof(float)} > sums_bytes)
      slab = std::max(least, round_to(slab / 2, 2 * tile));
  slabs = divide_up(item.left.channels, slab);
  item.left_tiles = tiles_of(slab);
  const int64_t most_parts = std::max<int64_t>(1, most_items / slabs);
  parts = std::clamp<int64_t>(all_groups * positions * kernels.images / part_values, 1,
                              std::min(most_parts, all_groups));
  part_images = divide_up(all_groups, parts) * kernels.images;
  parts = divide_up(item.images, part_images);

  item.left_rows = (item.band - 1) * item.stride + item.kernel;
  item.left_row = ((item.out_width - 1) * item.stride + item.kernel) * slab;
  // Groups of small Values should not lie a power of two apart, or all of them want the same places of a
  // cache.
  item.left_group = item.left_rows * item.left_row + (kernels.tiles ? 0 : tile);
  left_bytes = round_to((item.groups * item.left_group + left_slack) * kernels.value_bytes, scratch_line);
  // Vectors come in twos where there is more than one.
  const int64_t right_values =
      tile * (kernels.tiles || item.right_tiles == 1 ? item.right_tiles : round_to(item.right_tiles, 2));
  right_bytes = item.groups * item.band * item.out_width * right_values * kernels.value_bytes;
  slab_floats = floats_of(slab);
  part_floats = slab_floats * slabs;
}

}  // namespace

int64_t grad_weight_workspace(const Conv2dNhwcParams& p, const GradWeightKernels& kernels, int threads) {
  const GradWeightSplit split(p, kernels);
  return scratch_line + threads * split.scratch_bytes() +
         split.parts * split.part_floats * int64_t{sizeof(float)};
}

void grad_weight(const Conv2dNhwcParams& p, const GradWeightKernels& kernels, const void* grad_output,
                 const void* input, void* workspace, int threads, float* result) {
  const GradWeightSplit split(p, kernels);
  const auto at = [&](const void* values, int64_t index) {
    return static_cast<const char*>(values) + index * itemsize(p.storage);
  };
  char* const scratch = align_line(workspace);
  float* const sums = reinterpret_cast<float*>(scratch + threads * split.scratch_bytes());

  const int64_t items = split.parts * split.slabs;
  const int team = paying_threads(threads, items, multiply_adds(p) * multiply_add_ns);
#pragma omp parallel for schedule(dynamic) num_threads(team)
  for (int64_t i = 0; i < items; ++i) {
    const int64_t part = i / split.slabs, slab = i % split.slabs;
    const int64_t first = part * split.part_images;
    char* const own = scratch + thread_number() * split.scratch_bytes();
    GradWeightItem item = split.item;
    item.images = std::min(split.part_images, item.images - first);
    item.left.values = at(split.swapped ? grad_output : input, first * item.left.image + slab * split.slab);
    item.right.values = at(split.swapped ? input : grad_output, first * item.right.image);
    item.left.channels = split.slab_channels(slab);
    item.left_tiles = divide_up(item.kernel * item.left.channels, tile);
    item.left_scratch = own;
    item.right_scratch = own + split.left_bytes;
    item.sums = sums + part * split.part_floats + slab * split.slab_floats;
    kernels.run(item);
  }

  const int64_t right_tiles = split.item.right_tiles, *step = p.weight_stride;
  const int64_t stored = split.slabs * right_tiles;
  const int storing_team = paying_threads(threads, stored, weight_count(p) * weight_ns);
#pragma omp parallel for schedule(static) num_threads(storing_team)
  for (int64_t i = 0; i < stored; ++i) {
    const int64_t slab = i / right_tiles, channels = split.slab_channels(slab);
    const int64_t left_step = step[split.swapped ? 0 : 1], right_step = step[split.swapped ? 1 : 0];
    const int64_t row_floats = kernels.tiles ? tile : right_tiles * tile;
    kernels.store({sums + slab * split.slab_floats, split.parts, split.part_floats, right_tiles * tile_sums,
                   kernels.tiles ? tile_sums : tile, row_floats, split.item.kernel, channels,
                   split.item.right.channels, divide_up(split.item.kernel * channels, tile), right_tiles,
                   result + slab * split.slab * left_step, left_step, right_step, step[2], step[3]},
                  i % right_tiles);
  }
}

}  // namespace lasfast
