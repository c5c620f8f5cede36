// Numbers of pieces, and sizes rounded to them.
#pragma once

#include <cstdint>

namespace lasfast {

constexpr int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
constexpr int64_t round_to(int64_t value, int64_t multiple) { return divide_up(value, multiple) * multiple; }

}  // namespace lasfast
