#include "device.cuh"
#include "lasfast/device.h"

namespace lasfast {
namespace device {
namespace {

struct Runtime {
  static int current_device(int* device) { return reported(cudaGetDevice(device)); }
  static int most_shared_bytes(const void* kernel, int device, int* bytes) {
    cudaFuncAttributes attributes{};  // a kernel's own variables count, too
    if (const int error = reported(cudaFuncGetAttributes(&attributes, kernel))) return error;
    const auto error = cudaDeviceGetAttribute(bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    *bytes -= static_cast<int>(attributes.sharedSizeBytes);
    return reported(error);
  }
  static int set_shared_limit(const void* kernel, int bytes) {
    return reported(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  }

 private:
  // An error is the caller's to report, not for the next launch to find.
  static int reported(cudaError_t error) {
    if (error != cudaSuccess) cudaGetLastError();
    return static_cast<int>(error);
  }
};

SharedLimits<Runtime> shared_limits;

}  // namespace

int raise_shared_limit(const void* kernel) { return shared_limits.raise(kernel); }

}  // namespace device

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
