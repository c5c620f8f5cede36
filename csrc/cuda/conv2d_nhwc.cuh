// The arguments and the launches of the kernels behind conv2d_nhwc.h.
//
// The forward pass and the gradient of the input are sums over windows of what they read. The gradient of a
// convolution with a stride is several convolutions, called phases: along each axis, positions with the same
// remainder by the stride see the same taps, and each tap is seen by one remainder alone. A phase is all
// positions with one remainder along y and one along x. Windows are read forwards, so the packed weight of a
// phase has its taps in falling order.
#pragma once

#include "lasfast/conv2d_nhwc.h"
#include "nhwc.cuh"

namespace lasfast {

constexpr int conv_rows = 128;      // of a tile: positions, or (tap, input channel) of a weight's gradient
constexpr int fewest_columns = 16;  // of a tile of positions

struct Windows {
  bool transposed;  // whether this is the gradient of the input
  int images, in_height, in_width, in_channels;
  int out_height, out_width, out_channels;
  int kernel, stride, padding;
  int phases_y, phases_x;  // how many have positions
  int packed_phases;       // how many have taps, along each axis
  int depth;               // elements in a row of the packed weight: those of k_order.cuh, then zeros
  int64_t positions;       // of the largest phase

  Windows(const Conv2dNhwcParams& p, Pass pass);
  int64_t packed_elements() const { return int64_t{packed_phases} * packed_phases * out_channels * depth; }
  int64_t row_tiles() const { return divide_up(positions, conv_rows); }
  // Of tiles whose statistics are pooled together. Each column of tiles has a counter for each, and one more.
  int64_t groups() const { return divide_up(row_tiles(), pooled_tiles); }
  int64_t counters() const {
    return transposed ? 0 : divide_up(out_channels, fewest_columns) * (1 + groups());
  }
};

// One axis of a phase: position number i is first + step * i, and its window begins at
// origin + origin_step * i.
struct Axis {
  int first, step, count, origin, origin_step, taps;
  int residue;  // its taps are residue + stride * j

  LASFAST_DEVICE Axis(const Windows& w, int size, int phase)
      : first(phase),
        step(1),
        count(size),
        origin(-w.padding),
        origin_step(w.stride),
        taps(w.kernel),
        residue(0) {
    if (!w.transposed) return;
    residue = (phase + w.padding) % w.stride;
    step = w.stride;
    count = (size - phase + w.stride - 1) / w.stride;
    taps = residue < w.kernel ? (w.kernel - residue + w.stride - 1) / w.stride : 0;
    origin = (phase + w.padding - residue) / w.stride - (taps - 1);
    origin_step = 1;
  }
};

// ---- conv2d_nhwc_pack.cu

// Writes packed[phase][out channel][depth], in the values' type; phases are by the residue of y, then of x.
// Behind it, at the next multiple of 16 bytes, stand the counters of windows.counters(): zeros, too.
int64_t counters_at(const Windows& windows, Dtype packed);  // in bytes
struct PackArgs {
  const void* weight;
  int64_t stride[4];  // [c_out, c_in, kernel, kernel]
  void* packed;
  uint32_t* counters;  // behind the packed weight
  int64_t counter_count;
  int64_t first_block, blocks;  // that pack it, among those of a launch
  int in_channels, out_channels, kernel, depth;
  int phases, step;  // every step-th tap is of one phase, along each axis
  bool transposed;

  PackArgs() = default;
  PackArgs(const Conv2dNhwcParams& p, const Windows& windows, const void* weight, void* packed);
};
constexpr int most_packed = 36;  // by one launch
// Does so for some passes. With `tf32`, fp32 values are rounded.
int launch_pack(const PackArgs* args, int count, Dtype weight, Dtype packed, bool tf32,
                device::Stream stream);

// ---- conv2d_nhwc_windows.cu

struct WindowsArgs {
  Windows windows;
  const void* input;       // [images, in_height, in_width, in_channels]
  const void* packed;      // as above
  void* output;            // [images, out_height, out_width, out_channels]
  uint32_t* counters;      // behind the packed weight; zeros, before and behind
  float *mean, *variance;  // [out_channels], or null; without phases only
  float* partial;          // [row tiles][mean, squared deviations][out_channels]
  double* pooled;          // [groups][mean, squared deviations][out_channels]
  int groups;              // of tiles whose statistics are pooled together
  int64_t row_tiles;       // of a phase
  int column_tiles;
  bool whole_output;  // whether its vectors of channels can be written 16 bytes at a time
  bool warpgroups;    // whether they are wanted; taken where the input can be read 16 bytes at a time
  bool early;         // whether the launch may begin before what is queued before it has ended
};
int launch_windows(WindowsArgs args, Dtype storage, bool tf32, device::Stream stream);

// ---- conv2d_nhwc_grad_weight.cu

// Says how the sums are cut into tiles and parts.
struct GradWeightTiling {
  int columns;  // output channels of a tile; its rows are (tap, input channel)
  int64_t row_tiles, column_tiles;
  int64_t parts, each;  // parts that the positions are cut into; positions of each

  explicit GradWeightTiling(const Conv2dNhwcParams& p);
  int64_t partial_bytes(const Conv2dNhwcParams& p) const {
    return parts * p.kernel * p.kernel * p.c_in * p.c_out * int64_t{sizeof(float)};
  }
};
int launch_grad_weight(const Conv2dNhwcParams& p, const GradWeightTiling& tiling, const void* grad_output,
                       const void* input, float* partial, device::Stream stream);

}  // namespace lasfast
