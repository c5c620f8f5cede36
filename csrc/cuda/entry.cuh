// What the entry points of the CUDA kernels share.
#pragma once

#include "device.cuh"
#include "lasfast/status.h"

namespace lasfast {

// Kernels number positions and elements of a weight by int; this leaves room for a tile beyond the end.
constexpr int64_t max_index = (int64_t{1} << 31) - 4096;

// Says whether launches may begin early on the current device: whether kernels were compiled to wait there
// for what is queued before them (schedule_planes.cu). The first launch of an entry point follows what others
// have queued, copies or kernels of theirs, and begins late, unless the caller knows better.
bool may_launch_early();

// Makes `device` current and calls queue(stream), which returns the runtime's error number, 0 for none, or -1
// for more blocks than a grid has.
template <typename Queue>
Status on_device(int device, void* stream, const Queue& queue) {
  const device::Use use(device);
  if (use.error() != 0) return {Code::device_error, use.error(), "the device cannot be used"};
  const int error = queue(static_cast<device::Stream>(stream));
  return error < 0 ? unsupported("more than 2^31 blocks in one call") : launched(error);
}

}  // namespace lasfast
