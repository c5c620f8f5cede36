// What the CUDA runtime linked into this build says about itself and the machine. Present in CUDA builds
// only.
#pragma once

namespace lasfast {

// CUDART_VERSION of the static runtime, e.g. 13000.
int cuda_runtime_version();
// Highest CUDA version the installed driver supports; 0 without a driver.
int cuda_driver_version();
// Devices this runtime can use; 0 without a driver, or with one too old for this runtime.
int cuda_device_count();
// The runtime's text for a Status::detail.
const char* cuda_error_text(int error);

}  // namespace lasfast
