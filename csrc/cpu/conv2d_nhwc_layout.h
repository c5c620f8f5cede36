// What the files of conv2d_nhwc share: a pass as a convolution of a schedule.
#pragma once

#include <cstdint>

#include "conv2d_nhwc_kernels.h"
#include "lasfast/conv2d_nhwc.h"
#include "schedule_layout.h"
#include "threads.h"
#include "winograd_layout.h"

namespace lasfast {

// The forward pass or the gradient of the input as a convolution of a schedule. With a stride s, the gradient
// at rows and columns that are a, b modulo s is a convolution of stride 1 of its own: all of them (but for
// those that no tap reaches) are parts, `width` channels each, of one convolution's output, [images,
// out_height, out_width, rows' phases, columns' phases, width].
struct Convolution {
  struct Phase {
    int64_t residue;  // of rows or columns, modulo the stride
    int64_t tap;      // of the weight, that belongs to the window's last one in range
    TapRange range;   // of the window
  };

  Pass pass;
  Dtype storage;
  bool phased;
  int64_t width, phases;  // phases along an axis
  Phase phase[schedule_max_kernel];
  int64_t kernel, stride, padding;  // padding: above and to the left; to the right and below, as needed
  int64_t tile;
  int64_t images, in_channels, in_height, in_width, out_channels, out_height, out_width;

  Convolution(const Conv2dNhwcParams& p, Pass pass, Isa isa);

  // The convolution as a schedule has it.
  Operation operation() const;
  Value input() const;
  CellConvolution in_cells(Isa isa) const;
  WinogradConvolution in_tiles(Isa isa) const { return {operation(), input(), storage, isa, images}; }
};

// What a pass multiplies, and what its weight has.
inline double multiply_adds(const Conv2dNhwcParams& p) {
  return double{1} * p.batch * p.out_height * p.out_width * p.c_out * p.c_in * p.kernel * p.kernel;
}
inline double weight_count(const Conv2dNhwcParams& p) {
  return double{1} * p.c_out * p.c_in * p.kernel * p.kernel;
}

// Bytes of the packed weight, and packing it.
int64_t packed_bytes(const Convolution& c, const CellConvolution& conv, Isa isa);
void pack_weight(const Conv2dNhwcParams& p, const Convolution& c, const CellConvolution& conv,
                 const void* weight, int threads, Isa isa, char* packed);
void pack_winograd(const Conv2dNhwcParams& p, const Convolution& c, const void* weight, int threads, Isa isa,
                   char* packed);

// The gradient of the weight, of parameters that were checked and no empty tensor.
int64_t grad_weight_workspace(const Conv2dNhwcParams& p, const GradWeightKernels& kernels, int threads);
void grad_weight(const Conv2dNhwcParams& p, const GradWeightKernels& kernels, const void* grad_output,
                 const void* input, void* workspace, int threads, float* result);

// The same by Winograd's algorithm.
int64_t winograd_grad_weight_workspace(const Conv2dNhwcParams& p, int threads);
void winograd_grad_weight(const Conv2dNhwcParams& p, const GradWeightKernels& kernels,
                          const void* grad_output, const void* input, void* workspace, int threads,
                          float* result);

}  // namespace lasfast
