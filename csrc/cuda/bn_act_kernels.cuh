// What the kernels of bn_act.h are told, and how they are launched.
#pragma once

#include "device.cuh"
#include "lasfast/bn_act.h"
#include "reduce.cuh"

namespace lasfast {

// What a block leaves of each column: of statistics the shift, the mean above it and squared deviations from
// that; of gradients two sums.
constexpr int bn_act_partials = 3;

struct BnActArgs {
  WideRows rows;
  int64_t residual_channels;  // 0: none
  Activation activation;
  float eps;
  const void *x, *grad, *residual, *dz;  // dz may be null: computed from grad, x and residual
  const float *mean, *var, *weight, *bias;
  const double* sums;  // null where mean and var are constants
  float* partial;      // [blocks, bn_act_partials, width]
  void* output;
};

enum class BnActPass { statistics, forward, sums, grad_x };

// `vector`: values that are read at once, 1 or what 16 bytes hold; a.rows is made for it. There are rows.
int launch_bn_act(BnActPass pass, Dtype storage, int vector, const BnActArgs& a, device::Stream stream);

}  // namespace lasfast
