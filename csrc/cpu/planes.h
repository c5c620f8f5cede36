// The two loops that a CPU convolution comes down to, as POD arguments and a table of functions per
// instruction set.
//
// The driver copies what it reads into *planes*: one contiguous zero-padded image per channel (and per phase
// of the stride), all rows `pitch` floats apart. There every tap of the kernel is a constant shift, so both
// loops run over long contiguous stretches across row ends, whatever the strides, padding and stride of the
// convolution. Positions at the row ends that belong to no output are computed and dropped.
//
// Included by files compiled for different instruction sets: plain structs only, nothing inline.
#pragma once

#include <cstdint>

namespace lasfast {

// output[m][row][col] = sum over c, t of weight[m][c][t] * planes[c][row * pitch + col + tap_plane[t]].
// Overwrites.
struct CorrelateArgs {
  const float*
      planes;  // [channels] planes; readable for `correlate_slack` floats past the last position used
  int64_t plane_channel;
  const float* weight;  // [m, channels, taps], in place
  int64_t weight_m, weight_channel;
  const int64_t* tap_plane;   // [taps] shift within the planes
  const int64_t* tap_weight;  // [taps] shift within the weight
  int64_t m, channels, taps;
  float* output;  // [m, rows, cols]
  int64_t output_m, output_row, output_col;
  int64_t rows, cols, pitch;
};
constexpr int64_t correlate_slack = 128;

// result[m][c][t] (+)= sum over images, x of left[image][m][x] * planes[image][c][x + tap_plane[t]].
//
// x runs over `length`, which the left planes fill up with zeros beyond their rows' ends and their last row;
// or, row by row, over the positions that are no such filling, so that an Inf in the planes meets no zero.
struct DotArgs {
  const float* left;  // [images, m] planes
  int64_t left_image, left_m;
  const float* planes;  // [images, channels] planes
  int64_t plane_image, plane_channel;
  const int64_t* tap_plane;
  const int64_t* tap_weight;
  int64_t images, m, channels, taps;
  int64_t length;             // a multiple of dot_align; that much is readable from each shift on
  int64_t rows, cols, pitch;  // of the left planes
  bool row_by_row;
  float* result;  // [m, channels, taps]
  int64_t result_m, result_channel;
  bool accumulate;  // else overwrite
};

constexpr int64_t dot_align = 16;  // the widest vector, in floats

struct PlaneKernels {
  int dot_m;  // rows that dot() is fastest with
  void (*correlate)(const CorrelateArgs&);
  void (*dot)(const DotArgs&);
};

extern const PlaneKernels generic_plane_kernels;
extern const PlaneKernels avx2_plane_kernels;
extern const PlaneKernels avx512_plane_kernels;
extern const PlaneKernels neon_plane_kernels;

}  // namespace lasfast
