// The types in which values are stored. Python's table of them is lasfast/ir/precision.py.
#pragma once

#include <cstdint>

namespace lasfast {

enum class Dtype : int32_t { float32 = 0, bfloat16 = 1 };

constexpr bool is_known(Dtype dtype) { return dtype == Dtype::float32 || dtype == Dtype::bfloat16; }
constexpr int64_t itemsize(Dtype dtype) { return dtype == Dtype::float32 ? 4 : 2; }  // bytes

}  // namespace lasfast
