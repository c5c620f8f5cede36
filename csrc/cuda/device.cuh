// The one door to device primitives: kernels name no CUDA built-in, barrier or conversion themselves.
// A host stand-in of this file (threads and a barrier) is enough to run every kernel without a GPU.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#define LASFAST_KERNEL(max_threads) __global__ void __launch_bounds__(max_threads)
#define LASFAST_DEVICE __device__ __forceinline__
#define LASFAST_SHARED __shared__

namespace lasfast::device {

using Stream = cudaStream_t;
using bfloat16 = __nv_bfloat16;

LASFAST_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
LASFAST_DEVICE int64_t block_index() { return static_cast<int64_t>(blockIdx.x); }

// All threads of the block arrive, and see what the others wrote before.
LASFAST_DEVICE void barrier() { __syncthreads(); }

LASFAST_DEVICE float to_float(float v) { return v; }
LASFAST_DEVICE float to_float(bfloat16 v) { return __bfloat162float(v); }

template <typename T>
LASFAST_DEVICE T from_float(float v);
template <>
LASFAST_DEVICE float from_float<float>(float v) {
  return v;
}
template <>
LASFAST_DEVICE bfloat16 from_float<bfloat16>(float v) {
  return __float2bfloat16_rn(v);
}

// Queues `kernel` over a flat grid; returns the runtime's error number, 0 for none.
template <typename Argument>
int launch(void (*kernel)(Argument), int64_t blocks, int threads, Stream stream, const Argument& argument) {
  kernel<<<static_cast<unsigned>(blocks), static_cast<unsigned>(threads), 0, stream>>>(argument);
  return static_cast<int>(cudaGetLastError());
}

constexpr int64_t max_blocks = 0x7fffffff;

// Makes a device current for as long as it lives.
class Use {
 public:
  explicit Use(int wanted) {
    error_ = static_cast<int>(cudaGetDevice(&previous_));
    if (error_ == 0 && previous_ != wanted) {
      error_ = static_cast<int>(cudaSetDevice(wanted));
      changed_ = error_ == 0;
    }
  }
  ~Use() {
    if (changed_) cudaSetDevice(previous_);
  }
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

  int error() const { return error_; }

 private:
  int previous_ = 0, error_ = 0;
  bool changed_ = false;
};

}  // namespace lasfast::device
