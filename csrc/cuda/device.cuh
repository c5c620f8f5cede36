// The one door to device primitives: kernels name no CUDA built-in, barrier, conversion or instruction
// themselves. With LASFAST_EMULATE defined, device_host.h stands in for the GPU, and a host compiler builds
// the same kernels: that is how the test-suite runs them.
//
// A kernel is a function of one plain argument, run by flat blocks of threads that are never more than 1024.
// All threads of a block reach every barrier, all of a warp every load_matrix and mma.
#pragma once

#ifdef LASFAST_EMULATE
#include "device_host.h"
#else

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

// `blocks`: how many are to fit on a multiprocessor at once; the compiler keeps registers few enough.
#define LASFAST_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define LASFAST_DEVICE __device__ __forceinline__
// A function that is called: its values take no registers before and after.
#define LASFAST_CALLED __device__ __noinline__
#define LASFAST_UNROLL _Pragma("unroll")
#define LASFAST_ROLL _Pragma("unroll 1")

namespace lasfast::device {

using Stream = cudaStream_t;
using bfloat16 = __nv_bfloat16;

struct alignas(16) Bits16 {
  uint32_t word[4];
};

LASFAST_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
LASFAST_DEVICE int64_t block_index() { return static_cast<int64_t>(blockIdx.x); }

// All threads of the block arrive, and see what the others wrote before.
LASFAST_DEVICE void barrier() { __syncthreads(); }

// The block's shared memory, as large as launch() was told. It begins with anything.
template <typename T>
LASFAST_DEVICE T* shared() {
  extern __shared__ __align__(128) unsigned char lasfast_shared[];
  return reinterpret_cast<T*>(lasfast_shared);
}

// ---- memory. Addresses are aligned to 16 bytes, or to the 4 that are accessed.

// Of memory that nothing writes while the kernel runs.
LASFAST_DEVICE uint32_t load4(const void* from) { return __ldg(static_cast<const uint32_t*>(from)); }
LASFAST_DEVICE Bits16 load16(const void* from) {
  const uint4 v = __ldg(static_cast<const uint4*>(from));
  return {v.x, v.y, v.z, v.w};
}
LASFAST_DEVICE Bits16 load16_shared(const void* from) {
  const uint4 v = *static_cast<const uint4*>(from);
  return {v.x, v.y, v.z, v.w};
}
// To any memory.
LASFAST_DEVICE void store4(void* to, uint32_t bits) { *static_cast<uint32_t*>(to) = bits; }
LASFAST_DEVICE void store16(void* to, const Bits16& bits) {
  *static_cast<uint4*>(to) = make_uint4(bits.word[0], bits.word[1], bits.word[2], bits.word[3]);
}

// Begins to copy 16 bytes to shared memory, or to write zeros there where there is nothing to read.
LASFAST_DEVICE void copy16_async(void* shared_to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared_to))),
               "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
// Closes a group of this thread's copies.
LASFAST_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most `pending` of this thread's last groups are under way; other threads see its copies
// after a barrier.
template <int pending>
LASFAST_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// ---- matrices, a warp together

// Four 8x8 matrices of 2-byte elements: thread t gives the address of row t % 8 of matrix t / 8, and gets, of
// each, elements 2 * (t % 4) and the next of row t / 4. (With 4-byte elements: 8x4, element t % 4.)
LASFAST_DEVICE void load_matrix(uint32_t (&to)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared_row)))
               : "memory");
}

// The same of transposed matrices: each thread gets elements t / 4 of rows 2 * (t % 4) and the next.
LASFAST_DEVICE void load_matrix_transposed(uint32_t (&to)[4], const void* shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(static_cast<unsigned>(__cvta_generic_to_shared(shared_row)))
               : "memory");
}

// sum[16, 8] += a[16, k] * b[8, k]^T, in fp32, with 32 bytes of k: a as four matrices (rows, then halves of
// k), b as two (halves of k). Thread t has, of rows t / 4 and t / 4 + 8 of sum, columns 2 * (t % 4) and the
// next.
LASFAST_DEVICE void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
LASFAST_DEVICE void mma_tf32(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// fp32 to the nearest TF32, as bits.
LASFAST_DEVICE uint32_t to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

// ---- numbers

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
LASFAST_DEVICE uint32_t bits_of(float v) { return __float_as_uint(v); }
LASFAST_DEVICE float float_of(uint32_t bits) { return __uint_as_float(bits); }
// Two bf16 in a word, the first in its low half.
LASFAST_DEVICE uint32_t pack_bf16(float first, float second) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(first, second);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
LASFAST_DEVICE float exp(float v) { return expf(v); }
LASFAST_DEVICE float reciprocal(float v) { return __fdividef(1.f, v); }  // of 1 or more
LASFAST_DEVICE float infinity() { return __int_as_float(0x7f800000); }
LASFAST_DEVICE float sqrt(float v) { return sqrtf(v); }
LASFAST_DEVICE double sqrt(double v) { return ::sqrt(v); }

// ---- the host's side

constexpr int64_t max_blocks = 0x7fffffff;
constexpr int64_t max_shared_bytes = 99 << 10;      // of a block, on every GPU from 8.0 on
constexpr int64_t default_shared_bytes = 48 << 10;  // more has to be asked for

// Queues `kernel` over a flat grid; returns the runtime's error number, 0 for none.
template <typename Argument>
int launch(void (*kernel)(Argument), int64_t blocks, int threads, int64_t shared_bytes, Stream stream,
           const Argument& argument) {
  const auto* const function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > default_shared_bytes) {
    const auto error = cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                            static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return static_cast<int>(error);
  }
  void* arguments[] = {const_cast<Argument*>(&argument)};
  const auto error =
      cudaLaunchKernel(function, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                       arguments, static_cast<size_t>(shared_bytes), stream);
  if (error != cudaSuccess) cudaGetLastError();  // it is reported here, not by whoever launches next
  return static_cast<int>(error);
}

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

#endif  // LASFAST_EMULATE
