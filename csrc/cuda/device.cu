#include <cuda_runtime.h>

#include "lasfast/device.h"

namespace lasfast {

int cuda_runtime_version() { return CUDART_VERSION; }

int cuda_driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int cuda_device_count() {
  int count = 0;
  const bool usable = cudaGetDeviceCount(&count) == cudaSuccess;
  cudaGetLastError();  // having no device is an answer here, not an error for the next launch to find
  return usable ? count : 0;
}

int cuda_limits(int device, CudaLimits* limits) {
  const auto read = [device](cudaDeviceAttr attribute, int64_t* to) {
    int value = 0;
    const auto error = cudaDeviceGetAttribute(&value, attribute, device);
    if (error != cudaSuccess) cudaGetLastError();
    *to = value;
    return static_cast<int>(error);
  };
  int error = read(cudaDevAttrMultiProcessorCount, &limits->multiprocessors);
  if (!error) error = read(cudaDevAttrMaxSharedMemoryPerBlockOptin, &limits->block_shared_bytes);
  if (!error) error = read(cudaDevAttrMaxSharedMemoryPerMultiprocessor, &limits->shared_bytes);
  if (!error) error = read(cudaDevAttrReservedSharedMemoryPerBlock, &limits->reserved_bytes);
  return error;
}

const char* cuda_error_text(int error) { return cudaGetErrorString(static_cast<cudaError_t>(error)); }

}  // namespace lasfast
