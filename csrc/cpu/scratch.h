// Where scratch memory begins: at whole lines of the cache.
#pragma once

#include <cstdint>

namespace lasfast {

constexpr int64_t scratch_line = 64;  // bytes

// The first address from p on where a line begins.
template <class T = char>
T* align_line(void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return reinterpret_cast<T*>((address + scratch_line - 1) / scratch_line * scratch_line);
}

}  // namespace lasfast
