// A batch norm in prediction as what it multiplies with and adds.
#pragma once

#include <cmath>

#include "lasfast/prediction.h"

namespace lasfast {

struct ScaleShift {
  float scale, shift;
};

inline ScaleShift norm_affine(const Prediction& p, int64_t channel) {
  const double scale = (p.weight ? p.weight[channel] : 1.0) / std::sqrt(p.variance[channel] + double{p.eps});
  const double bias = p.bias ? p.bias[channel] : 0.0;
  return {static_cast<float>(scale), static_cast<float>(bias - p.mean[channel] * scale)};
}

}  // namespace lasfast
