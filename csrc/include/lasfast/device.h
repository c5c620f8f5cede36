// What the CUDA runtime linked into this build says about itself and the machine. Present in CUDA builds
// only.
#pragma once

#include <cstdint>

namespace lasfast {

// CUDART_VERSION of the static runtime, e.g. 13000.
int cuda_runtime_version();
// Highest CUDA version the installed driver supports; 0 without a driver.
int cuda_driver_version();
// Devices this runtime can use; 0 without a driver, or with one too old for this runtime.
int cuda_device_count();

struct CudaLimits {
  int64_t multiprocessors;
  int64_t block_shared_bytes;  // that a block may have
  int64_t shared_bytes;        // of a multiprocessor, for all blocks on it at a time,
  int64_t reserved_bytes;      // which take so much more each
};
// Returns the runtime's error number, 0 for none.
int cuda_limits(int device, CudaLimits* limits);

// The runtime's text for a Status::detail.
const char* cuda_error_text(int error);

}  // namespace lasfast
