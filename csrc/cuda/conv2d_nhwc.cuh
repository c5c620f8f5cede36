// What the kernels of conv2d_nhwc.h are told.
//
// Forward pass and gradient of the input are sums over windows of what they read. With a stride, the latter
// are several convolutions: positions of one residue see the same taps, and each tap is seen by one residue
// (per axis). A phase is the positions of one residue in both axes; its window is read forwards, so its
// packed weight has the taps in falling order.
#pragma once

#include "lasfast/conv2d_nhwc.h"
#include "nhwc.cuh"

namespace lasfast {

struct Windows {
  bool transposed;  // the gradient of the input
  int images, in_height, in_width, in_channels;
  int out_height, out_width, out_channels;
  int kernel, stride, padding;
  int phases_y, phases_x;  // that have positions
  int packed_phases;       // in each axis: that have taps
  int depth;               // elements of a row of the packed weight: k_order.cuh's, then zeros
  int64_t positions;       // of a phase, at most

  Windows(const Conv2dNhwcParams& p, Pass pass);
  int64_t packed_elements() const { return int64_t{packed_phases} * packed_phases * out_channels * depth; }
};

// One axis of a phase: its positions are first + step * i, and the window of number i begins at
// origin + origin_step * i.
struct Axis {
  int first, step, count, origin, origin_step, taps;
  int residue;  // of its taps: they are residue + stride * j

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

// packed[phase][out channel][depth], in the values' type; phase: residue of y, then of x.
struct PackArgs {
  Windows windows;
  const void* weight;
  int64_t stride[4];  // [c_out, c_in, kernel, kernel]
  void* packed;
};
int launch_pack(const PackArgs& args, Dtype weight, Dtype packed, device::Stream stream);

constexpr int conv_rows = 128;  // of a tile: positions, or taps and input channels of a weight

// ---- conv2d_nhwc_windows.cu

struct WindowsArgs {
  Windows windows;
  const void* input;   // [images, in_height, in_width, in_channels]
  const void* packed;  // as above
  void* output;        // [images, out_height, out_width, out_channels]
  float* partial;      // [row tiles][mean, squared deviations][out_channels], or null; without phases only
  int64_t row_tiles;   // of a phase
  int column_tiles;
  bool whole_output;  // its vectors of channels can be written 16 bytes at a time
  bool warpgroups;    // wanted, which need vectors of the input that can be read so
};
int launch_windows(WindowsArgs args, Dtype storage, bool tf32, device::Stream stream);

// ---- conv2d_nhwc_grad_weight.cu

struct GradWeightPlan {
  int columns;  // of a tile: output channels; its 128 rows are (tap, input channel)
  int64_t row_tiles, column_tiles;
  int64_t parts, each;  // of the positions

  explicit GradWeightPlan(const Conv2dNhwcParams& p);
  int64_t partial_bytes(const Conv2dNhwcParams& p) const {
    return parts * p.kernel * p.kernel * p.c_in * p.c_out * int64_t{sizeof(float)};
  }
};
int launch_grad_weight(const Conv2dNhwcParams& p, const GradWeightPlan& plan, const void* grad_output,
                       const void* input, float* partial, device::Stream stream);

}  // namespace lasfast
