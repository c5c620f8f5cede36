#include <cuda.h>

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

#if CUDART_VERSION >= 12000
// Finds a function of the driver, which this module is not linked with; null where it has none.
template <typename Function>
Function* driver_function(const char* name) {
  void* found = nullptr;
  cudaDriverEntryPointQueryResult status{};
#if CUDART_VERSION >= 12050
  const auto error = cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &status);
#else
  const auto error = cudaGetDriverEntryPoint(name, &found, cudaEnableDefault, &status);
#endif
  if (error != cudaSuccess) cudaGetLastError();
  const bool some = error == cudaSuccess && status == cudaDriverEntryPointSuccess;
  return some ? reinterpret_cast<Function*>(found) : nullptr;
}
#endif

}  // namespace

int raise_shared_limit(const void* kernel) { return shared_limits.raise(kernel); }

#if CUDART_VERSION >= 12000

int describe(const WindowsMap& w, TensorMap* map) {
  static const auto encode = driver_function<decltype(cuTensorMapEncodeIm2col)>("cuTensorMapEncodeIm2col");
  if (!encode) return static_cast<int>(cudaErrorNotSupported);
  // The driver has dimensions from the innermost on, and strides in bytes from the second on. Corners are
  // those of the box that the first taps of all windows fill, from the image's own corners.
  const auto channels = static_cast<cuuint64_t>(w.channels), width = static_cast<cuuint64_t>(w.width),
             height = static_cast<cuuint64_t>(w.height);
  const cuuint64_t sizes[] = {channels, width, height, static_cast<cuuint64_t>(w.images)};
  const cuuint64_t strides[] = {2 * channels, 2 * channels * width, 2 * channels * width * height};
  const int lower[] = {-w.padding, -w.padding};
  const int upper[] = {last_window(w.out_width, w.stride, w.padding) - (w.width - 1),
                       last_window(w.out_height, w.stride, w.padding) - (w.height - 1)};
  const auto step = static_cast<cuuint32_t>(w.stride);
  const cuuint32_t steps[] = {1, step, step, 1};
  return static_cast<int>(encode(reinterpret_cast<CUtensorMap*>(map), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4,
                                 const_cast<void*>(w.values), sizes, strides, lower, upper, mapped_elements,
                                 static_cast<cuuint32_t>(w.positions), steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                                 CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                                 CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
}

int describe(const RowsMap& r, TensorMap* map) {
  static const auto encode = driver_function<decltype(cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  if (!encode) return static_cast<int>(cudaErrorNotSupported);
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(r.depth), static_cast<cuuint64_t>(r.rows)};
  const cuuint64_t strides[] = {2 * static_cast<cuuint64_t>(r.depth)};
  const cuuint32_t box[] = {mapped_elements, static_cast<cuuint32_t>(r.together)}, steps[] = {1, 1};
  return static_cast<int>(encode(reinterpret_cast<CUtensorMap*>(map), CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2,
                                 const_cast<void*>(r.values), sizes, strides, box, steps,
                                 CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                 CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE));
}

#else

int describe(const WindowsMap&, TensorMap*) { return static_cast<int>(cudaErrorNotSupported); }
int describe(const RowsMap&, TensorMap*) { return static_cast<int>(cudaErrorNotSupported); }

#endif

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
