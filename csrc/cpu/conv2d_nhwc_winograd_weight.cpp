// The weight gradient of a 3x3 convolution on dense NHWC values by Winograd's algorithm (see
// WinogradGradWeightItem): how it is cut into items.
//
// An item is some tiles and some input channels, with sums of its own, so that threads meet only where the
// sums of all parts are added up. How many parts there are follows from the sizes alone.
#include <algorithm>

#include "conv2d_nhwc_kernels.h"
#include "conv2d_nhwc_layout.h"

namespace lasfast {
namespace {

constexpr int64_t width = 16;  // channels that results are stored by
// Tiles at a time: what is between the transforms then stays near, and sums are not read too often. (This and
// what follows was measured.)
constexpr int64_t block_tiles = 48;
constexpr int64_t least_part = 512;                                      // tiles
constexpr int64_t most_items = 8, some_items = 4;                        // where there is enough to do
constexpr int64_t most_slab = 128, least_slab = 64, slab_multiple = 32;  // channels

// Says how the work is split into items.
struct WinogradSplit {
  WinogradGradWeightItem item;  // of all tiles and channels
  int64_t slab, slabs;          // input channels of an item, and how many such
  int64_t part_tiles, parts;
  int64_t positions, panel, panels;
  int64_t left_floats, right_floats, part_floats, slab_floats;
  int64_t row_floats;  // of the gradient, from one row of the kernel to the next

  explicit WinogradSplit(const Conv2dNhwcParams& p) : item{} {
    item.input = {nullptr, p.height * p.width * p.c_in, p.width * p.c_in, p.c_in, p.c_in};
    item.grad = {nullptr, p.out_height * p.out_width * p.c_out, p.out_width * p.c_out, p.c_out, p.c_out};
    item.side = p.tile;
    item.in_height = p.height;
    item.in_width = p.width;
    item.out_height = p.out_height;
    item.out_width = p.out_width;
    item.padding = p.padding;
    item.rows = divide_up(p.out_height, p.tile);
    item.cols = divide_up(p.out_width, p.tile);
    item.tiles = p.batch * item.rows * item.cols;
    item.block = std::min(block_tiles, item.tiles);

    const auto parts_of = [&] {
      return std::clamp<int64_t>(item.tiles / least_part, 1, std::max<int64_t>(1, most_items / slabs));
    };
    slab = p.c_in, slabs = 1;
    while (slab > most_slab || (slab > least_slab && slabs * parts_of() < some_items)) {
      slab = std::max(least_slab, round_to(slab / 2, slab_multiple));
      slabs = divide_up(p.c_in, slab);
    }
    part_tiles = round_to(divide_up(item.tiles, parts_of()), item.block);
    parts = divide_up(item.tiles, part_tiles);

    positions = (p.tile + 2) * (p.tile + 2);
    panel = p.c_out > width ? 2 * width : width;
    panels = divide_up(p.c_out, panel);
    item.left_pitch = odd_lines(slab);
    item.left_plane = odd_lines(item.block * item.left_pitch);
    item.right_plane = odd_lines(item.block * panel);
    left_floats = positions * item.left_plane;
    right_floats = panels * positions * item.right_plane;
    slab_floats = panels * positions * slab * panel;
    part_floats = slabs * slab_floats;
    row_floats = round_to(3 * p.c_in, width) * width;
  }

  int64_t slab_channels(int64_t i) const { return std::min(slab, item.input.channels - i * slab); }
  // A thread's own: what it transforms, and then the gradient that it transforms back.
  int64_t thread_floats() const { return std::max(left_floats + right_floats, 3 * row_floats); }
};

}  // namespace

int64_t winograd_grad_weight_workspace(const Conv2dNhwcParams& p, int threads) {
  const WinogradSplit split(p);
  return scratch_line + (threads * split.thread_floats() + split.parts * split.part_floats) * 4;
}

void winograd_grad_weight(const Conv2dNhwcParams& p, const GradWeightKernels& kernels,
                          const void* grad_output, const void* input, void* workspace, int threads,
                          float* result) {
  const WinogradSplit split(p);
  float* const scratch = align_line<float>(workspace);
  float* const sums = scratch + threads * split.thread_floats();

  const int64_t items = split.parts * split.slabs;
  const int team = paying_threads(threads, items, multiply_adds(p) * multiply_add_ns);
#pragma omp parallel for schedule(dynamic) num_threads(team)
  for (int64_t i = 0; i < items; ++i) {
    const int64_t part = i / split.slabs, slab = i % split.slabs;
    float* const own = scratch + thread_number() * split.thread_floats();
    WinogradGradWeightItem item = split.item;
    item.first = part * split.part_tiles;
    item.tiles = std::min(split.part_tiles, item.tiles - item.first);
    item.input.values = static_cast<const float*>(input) + slab * split.slab;
    item.input.channels = split.slab_channels(slab);
    item.grad.values = grad_output;
    item.left_scratch = own;
    item.right_scratch = own + split.left_floats;
    item.sums = sums + part * split.part_floats + slab * split.slab_floats;
    kernels.run_winograd(item);
  }

  const int64_t right_tiles = divide_up(p.c_out, width), *step = p.weight_stride;
  const int storing_team = paying_threads(threads, right_tiles, weight_count(p) * weight_ns);
#pragma omp parallel for schedule(static) num_threads(storing_team)
  for (int64_t n = 0; n < right_tiles; ++n) {
    float* const taps = scratch + thread_number() * split.thread_floats();
    for (int64_t slab = 0; slab < split.slabs; ++slab) {
      const int64_t channels = split.slab_channels(slab), plane = channels * split.panel;
      const float* const from = sums + slab * split.slab_floats +
                                n * width / split.panel * split.positions * plane + n * width % split.panel;
      kernels.transform_winograd({from, p.tile, split.parts, split.part_floats, plane, split.panel, channels,
                                  split.row_floats, p.c_in * width, taps + slab * split.slab * width});
    }
    kernels.store(
        {taps, 1, 0, width * width, 0, width, 3, p.c_in, p.c_out, split.row_floats / (width * width),
         right_tiles, result, step[1], step[0], step[2], step[3]},
        n);
  }
}

}  // namespace lasfast
