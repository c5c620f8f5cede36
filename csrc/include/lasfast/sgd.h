// Stochastic gradient descent on parts of many tensors in one call, in fp32. For each value,
//
//   g = scale * gradient + weight_decay * weight        (the decay is added if there is any, and `decays`)
//   m = momentum * m + g,  g = nesterov ? momentum * m + g : m     (if there is momentum)
//   weight = weight - learning_rate * g
//
// A part is what an update uses of a tensor, with weight, gradient and momentum laid out alike: sizes [3]
// with the last dimension dense. Nothing else is read or written. `scale` is gradient_scale, times clip_norm
// / (norm + 1e-6) where that is less than 1 (clip_norm above 0): norm is the Euclidean one of gradient_scale
// * gradient over all parts.
//
// Parts are cut into chunks of values; squares are summed over each in double, and the chunks' sums added in
// order: the same inputs give the same bits, whatever the number of threads.
#pragma once

#include <cstdint>

#include "lasfast/status.h"

namespace lasfast {

// Made by Python (lasfast/ops/sgd.py) as rows of ten int64; first_chunk by sgd_chunks.
struct SgdPart {
  float* weight;
  const float* gradient;
  float* momentum;  // null without momentum
  int64_t size[3];
  int64_t stride[2];  // of the first two dimensions, in elements
  int64_t decays;     // 0 where weight_decay does not count
  int64_t first_chunk;
};

struct SgdParams {
  int64_t parts, chunks;  // chunks: what sgd_chunks said
  float learning_rate, momentum, weight_decay;
  bool nesterov;
  float gradient_scale, clip_norm;
};

constexpr int64_t sgd_chunk = 2048;  // values

// Checks the sizes and fills in first_chunk; `chunks`: how many there are of all parts.
Status sgd_chunks(SgdPart* parts, int64_t count, int64_t* chunks);

// Bytes of scratch memory, aligned to 8, that an update with clip_norm needs.
int64_t sgd_workspace(int64_t chunks);

// Overwrites weights and momenta.
Status sgd_cpu(const SgdParams& p, const SgdPart* parts, void* workspace, int threads);

// The same, with parts in the device's memory.
Status sgd_cuda(const SgdParams& p, const SgdPart* parts, void* workspace, int device, void* stream);

}  // namespace lasfast
