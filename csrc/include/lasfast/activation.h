// The activations. Python's table of them is lasfast/ir/activations.py.
//
// Included by files compiled for different instruction sets: nothing inline.
#pragma once

#include <cstdint>

namespace lasfast {

enum class Activation : int32_t {
  none = 0,
  relu = 1,
  relu6 = 2,  // up to here, an activation clamps; from here on, it is a curve
  hardswish = 3,
  swish = 4,
  sigmoid = 5,
  hardsigmoid = 6,
};
constexpr int activation_count = 7;
constexpr bool is_known(Activation kind) {
  return static_cast<int>(kind) >= 0 && static_cast<int>(kind) < activation_count;
}

}  // namespace lasfast
