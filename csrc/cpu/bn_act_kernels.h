// What runs the passes of bn_act.h over some rows, as a POD and a table of functions per instruction set.
//
// Rows are joined into *wide rows* of a whole number of vectors, so that any number of channels runs without
// partial vectors: 24 channels are wide rows of 4 rows and 96 values, six vectors of sixteen. Whatever is one
// value per channel is repeated accordingly.
//
// Included by files compiled for different instruction sets: plain structs only, nothing inline.
#pragma once

#include <cstdint>

#include "lasfast/activation.h"
#include "vec.h"

namespace lasfast {

struct BnActRows {
  int64_t count;  // of wide rows
  int64_t width;  // values of each: a multiple of the vector
  int64_t tail;   // values of one more wide row that is not whole: whole rows, less than `width`
  Activation activation;
  const void *x, *grad, *residual;      // [count, width] and tail
  const void* dz;                       // likewise, or null: computed from grad, x and residual
  void* output;                         // y, dz (may be null) or grad_x
  const float *mean, *scale, *bias;     // [width]; scale is weight / sqrt(var + eps)
  const float *grad_mean, *grad_slope;  // [width]: what grad_x subtracts from dz, the latter times x - mean.
                                        // Null where mean and var are constants
  float* sums;                          // [2, width], added to
};

struct BnActKernels {
  int width;  // floats per vector
  // By storage. The first takes the sums of x - mean and of their squares; the third writes dz and takes the
  // sums of dz and of dz * (x - mean).
  void (*statistics[2])(const BnActRows&);
  void (*forward[2])(const BnActRows&);
  void (*reduce[2])(const BnActRows&);
  void (*grad_x[2])(const BnActRows&);
};

extern const BnActKernels generic_bn_act_kernels;
extern const BnActKernels avx2_bn_act_kernels;
extern const BnActKernels avx512_bn_act_kernels;
extern const BnActKernels avx512_bf16_bn_act_kernels;  // for amx, too
extern const BnActKernels neon_bn_act_kernels;
extern const BnActKernels neon_bf16_bn_act_kernels;

}  // namespace lasfast
