// How the tensors of a convolution are laid out as planes (see planes.h): where rows, phases and taps lie.
// For the drivers, which are compiled for the base architecture; never included by files in isa/.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "lasfast/round.h"
#include "lasfast/sliced_conv2d.h"
#include "scratch.h"

namespace lasfast {
namespace {

constexpr int64_t line = scratch_line / int64_t{sizeof(float)};  // floats

int64_t ceil_div(int64_t a, int64_t b) { return a >= 0 ? (a + b - 1) / b : -(-a / b); }
int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

// Shifts of the taps of one phase: those kernel rows and columns that are a and b modulo the stride.
struct Taps {
  int64_t* plane;
  int64_t* weight;
  int64_t count = 0;

  void add(int64_t in_plane, int64_t in_weight) {
    plane[count] = in_plane;
    weight[count++] = in_weight;
  }
};

int64_t taps_bytes(const SlicedConv2dParams& p) {
  return 2 * p.kernel_h * p.kernel_w * int64_t{sizeof(int64_t)};
}

// to[j] = from[first + j * step] where that lies in [0, size), else 0. `from` may be null: all zeros.
void copy_row(float* to, int64_t count, const float* from, int64_t first, int64_t step, int64_t size,
              int64_t stride) {
  if (from == nullptr) {
    std::memset(to, 0, static_cast<size_t>(count) * sizeof(float));
    return;
  }
  const int64_t begin = std::clamp<int64_t>(ceil_div(-first, step), 0, count);
  const int64_t end = std::clamp<int64_t>(ceil_div(size - first, step), begin, count);
  std::fill(to, to + begin, 0.f);
  if (step * stride == 1)
    std::copy(from + first + begin, from + first + end, to + begin);
  else
    for (int64_t j = begin; j < end; ++j) to[j] = from[(first + j * step) * stride];
  std::fill(to + end, to + count, 0.f);
}

// The planes of one channel of the input: for each phase (a, b) the rows first_row .. first_row + rows of
// padded_input[row * stride + a][col * stride + b].
struct InputPlanes {
  int64_t phases_h, phases_w, taps_h, taps_w, pitch;

  explicit InputPlanes(const SlicedConv2dParams& p)
      : phases_h(std::min(p.stride, p.kernel_h)),
        phases_w(std::min(p.stride, p.kernel_w)),
        taps_h(divide_up(p.kernel_h, p.stride)),
        taps_w(divide_up(p.kernel_w, p.stride)),
        pitch(p.out_width + taps_w - 1) {}

  // Rows of a plane from which `out_rows` rows of output follow.
  int64_t rows(int64_t out_rows) const { return out_rows + taps_h - 1; }
  int64_t channel_floats(int64_t out_rows) const { return phases_h * phases_w * rows(out_rows) * pitch; }

  void fill_taps(const SlicedConv2dParams& p, int64_t out_rows, Taps& taps) const {
    for (int64_t r = 0; r < p.kernel_h; ++r)
      for (int64_t s = 0; s < p.kernel_w; ++s) {
        const int64_t phase = r % p.stride * phases_w + s % p.stride;
        taps.add((phase * rows(out_rows) + r / p.stride) * pitch + s / p.stride,
                 r * p.weight_stride[2] + s * p.weight_stride[3]);
      }
  }

  // `plane_rows` says for how many rows of output the planes are laid out; `out_rows` of them are filled.
  void copy(const SlicedConv2dParams& p, const float* channel, int64_t first_row, int64_t out_rows,
            int64_t plane_rows, float* planes) const {
    for (int64_t a = 0; a < phases_h; ++a)
      for (int64_t b = 0; b < phases_w; ++b)
        for (int64_t i = 0; i < rows(out_rows); ++i) {
          const int64_t y = (first_row + i) * p.stride + a - p.padding;
          const float* from = y >= 0 && y < p.height ? channel + y * p.input_stride[2] : nullptr;
          float* to = planes + ((a * phases_w + b) * rows(plane_rows) + i) * pitch;
          copy_row(to, pitch, from, b - p.padding, p.stride, p.width, p.input_stride[3]);
        }
  }
};

// Says how one axis of the input gradient falls into phases: position y belongs to phase a = (y + padding) %
// stride, where it is number i with y = stride * i + a - padding, and gathers output positions i, i - 1, ...,
// one a tap.
struct GradAxis {
  int64_t size, kernel, stride, padding;
  int64_t low, high, most_taps;  // over all phases: numbers low .. high

  GradAxis(int64_t size_, int64_t kernel_, const SlicedConv2dParams& p)
      : size(size_),
        kernel(kernel_),
        stride(p.stride),
        padding(p.padding),
        low(first(p.stride - 1)),
        high(last(0)),
        most_taps(taps(0)) {}

  int64_t first(int64_t a) const { return ceil_div(padding - a, stride); }
  int64_t last(int64_t a) const { return floor_div(size - 1 + padding - a, stride); }
  int64_t taps(int64_t a) const { return a < kernel ? (kernel - 1 - a) / stride + 1 : 0; }
};

}  // namespace
}  // namespace lasfast
