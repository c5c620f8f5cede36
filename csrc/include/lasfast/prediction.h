// What follows a convolution where nothing is trained: a batch norm, a sum and an activation.
#pragma once

#include <cstdint>

#include "lasfast/activation.h"
#include "lasfast/status.h"

namespace lasfast {

// activation((sums - mean) / sqrt(variance + eps) * weight + bias + residual)
struct Prediction {
  const float *mean, *variance;  // [channels]
  const float *weight, *bias;    // [channels]; null: 1 and 0
  float eps;
  const void* residual;       // [batch, out_height, out_width, residual_channels], or null
  int64_t residual_channels;  // at most the channels: those that it lacks count as zero
  Activation activation;
};

inline Status validate(const Prediction& p, int64_t channels) {
  if (!p.mean || !p.variance) return invalid("mean or variance is missing");
  if (!is_known(p.activation)) return invalid("the activation is unknown");
  if (p.residual && (p.residual_channels < 0 || p.residual_channels > channels))
    return invalid("residual_channels must be between 0 and the channels");
  return {};
}

}  // namespace lasfast
