// The arguments and the launches of the kernels behind bn_act.h.
#pragma once

#include "device.cuh"
#include "lasfast/bn_act.h"
#include "reduce.cuh"

namespace lasfast {

// Floats that a block leaves of each column: for statistics a shift, the mean above it and squared deviations
// from that mean; for gradients two sums, and one that is not used.
constexpr int bn_act_partials = 3;

// Running statistics, and the weights with which they follow those of a batch.
struct BnActRunning {
  double momentum, unbiased;
  float *mean, *var;

  BnActRunning() : momentum(0), unbiased(0), mean(nullptr), var(nullptr) {}
  BnActRunning(int64_t rows, double momentum, float* mean, float* var)
      : momentum(momentum),
        unbiased(momentum * (static_cast<double>(rows) / static_cast<double>(rows - 1))),
        mean(mean),
        var(var) {}

  LASFAST_DEVICE void follow(int64_t c, float batch_mean, float batch_var) const {
    mean[c] = static_cast<float>((1.0 - momentum) * static_cast<double>(mean[c]) +
                                 momentum * static_cast<double>(batch_mean));
    var[c] = static_cast<float>((1.0 - momentum) * static_cast<double>(var[c]) +
                                unbiased * static_cast<double>(batch_var));
  }
};

// Where a channel's two sums go, once all blocks have left theirs.
struct BnActSums {
  double* of_groups;     // [groups of blocks][2][width]
  uint32_t* arrived;     // counters of the blocks that have come: zeros, before and behind
  int64_t groups;        // of each tile of columns
  double values;         // of each channel
  double* sums;          // [2 * channels + 1]
  float *bias, *weight;  // the gradients of these, or null
};

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
  BnActRunning running;  // what the forward pass updates, if it is not null
  uint32_t* counters;    // what the forward pass makes zero for the backward pass, or null
  int64_t counter_count;
  BnActSums last;  // of the pass over sums
};

enum class BnActPass { statistics, forward, sums, grad_x };

// Reads `vector` values at once: 1, or what 16 bytes hold. a.rows is made for as many, and has at least one
// row. `early`: whether the launch may begin before what is queued before it has ended.
int launch_bn_act(BnActPass pass, Dtype storage, int vector, const BnActArgs& a, device::Stream stream,
                  bool early);

}  // namespace lasfast
