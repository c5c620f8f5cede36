// The one door to device primitives: kernels name no CUDA built-in, barrier, conversion or instruction
// themselves. With LASFAST_EMULATE defined, device_host.h stands in for the GPU, and a host compiler builds
// the same kernels: that is how the test-suite runs them.
//
// A kernel is a function of one plain argument, which flat blocks of at most 1024 threads run. All threads of
// a block that have not ended reach every barrier, and all of a warp every load_matrix and mma.
#pragma once

#ifdef LASFAST_EMULATE
#include "device_host.h"
#else

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "shared_limits.h"
#include "tensor_map.h"

// The compiler keeps registers few enough for `blocks` blocks on a multiprocessor at once.
#define LASFAST_KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define LASFAST_DEVICE __device__ __forceinline__
// A function that is called, not inlined: its values take no registers before and after.
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

// All threads of a warp arrive, and see what the others wrote before.
LASFAST_DEVICE void warp_barrier() { __syncwarp(); }

// Returns the block's shared memory, which is as large as launch() was told, and not initialized.
template <typename T>
LASFAST_DEVICE T* shared() {
  extern __shared__ __align__(1024) unsigned char lasfast_shared[];
  return reinterpret_cast<T*>(lasfast_shared);
}

// A launch that may begin early (see launch) waits here for those before it to end. What they write it must
// not touch sooner, and each of its blocks has to come here.
LASFAST_DEVICE void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next launch begin, if it may, once all blocks of this one have come here or ended.
LASFAST_DEVICE void let_next_begin() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Returns a number or a pointer of which the compiler then knows nothing: it keeps it instead of working it
// out again and again.
LASFAST_DEVICE int settled(int number) {
  asm volatile("" : "+r"(number));
  return number;
}
template <typename T>
LASFAST_DEVICE T* settled(T* pointer) {
  asm volatile("" : "+l"(pointer));
  return pointer;
}

// Returns the address of item `number` of an array of items of so many bytes, which is one instruction: the
// compiler would widen loop-invariant sizes ahead of the loop, and multiply by parts in it.
LASFAST_DEVICE const char* item_address(const char* items, int number, int bytes) {
  const char* address;
  asm("mad.wide.s32 %0, %1, %2, %3;" : "=l"(address) : "r"(number), "r"(bytes), "l"(items));
  return address;
}

// Returns a value of which all threads of a warp have the same, and which the compiler then knows to be so.
LASFAST_DEVICE int uniform(int value) { return __shfl_sync(0xffffffff, value, 0); }

// ---- memory. Addresses are aligned to 16 bytes, or to the 4 that are accessed.

// Load from memory that nothing writes while the kernel runs.
LASFAST_DEVICE uint32_t load4(const void* from) { return __ldg(static_cast<const uint32_t*>(from)); }
LASFAST_DEVICE Bits16 load16(const void* from) {
  const uint4 v = __ldg(static_cast<const uint4*>(from));
  return {v.x, v.y, v.z, v.w};
}
LASFAST_DEVICE Bits16 load16_shared(const void* from) {
  const uint4 v = *static_cast<const uint4*>(from);
  return {v.x, v.y, v.z, v.w};
}
// Store to any memory.
LASFAST_DEVICE void store4(void* to, uint32_t bits) { *static_cast<uint32_t*>(to) = bits; }
LASFAST_DEVICE void store16(void* to, const Bits16& bits) {
  *static_cast<uint4*>(to) = make_uint4(bits.word[0], bits.word[1], bits.word[2], bits.word[3]);
}

// Load what another block of this launch wrote, once is_last_block() has said that it is there.
template <typename T>
LASFAST_DEVICE T load_written(const T* from) {
  return __ldcg(from);
}

// All threads of a block call this. It returns, to all of them, whether the block is the last of so many to
// arrive at a counter: then it sees what the others wrote before. The counter is zero before the first
// arrives, and zero again after the last.
LASFAST_DEVICE bool is_last_block(uint32_t* counter, int blocks) {
  __threadfence();
  __syncthreads();
  const auto last = static_cast<uint32_t>(blocks - 1);
  const bool is_last = __syncthreads_or(threadIdx.x == 0 && atomicInc(counter, last) == last) != 0;
  __threadfence();
  return is_last;
}

// Begins to copy 16 bytes to shared memory, or to write zeros there where there is nothing to read.
LASFAST_DEVICE void copy16_async(void* shared_to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                   static_cast<unsigned>(__cvta_generic_to_shared(shared_to))),
               "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
// The same by those threads alone for which it is wanted; all others do nothing.
LASFAST_DEVICE void copy16_async_if(bool wanted, void* shared_to, const void* from, bool valid) {
  asm volatile(
      "{\n.reg .pred wanted;\nsetp.ne.b32 wanted, %3, 0;\n"
      "@wanted cp.async.cg.shared.global [%0], [%1], 16, %2;\n}" ::"r"(
          static_cast<unsigned>(__cvta_generic_to_shared(shared_to))),
      "l"(from), "r"(valid ? 16 : 0), "r"(static_cast<int>(wanted))
      : "memory");
}
// The same by way of the first level of cache, for what other copies read again soon.
LASFAST_DEVICE void copy16_async_cached(void* shared_to, const void* from, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 16, %2;" ::"r"(
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
LASFAST_DEVICE float infinity() { return __int_as_float(0x7f800000); }
// Returns the nearest TF32 of an fp32, both as bits.
LASFAST_DEVICE uint32_t to_tf32(uint32_t bits) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(__uint_as_float(bits)));
  return rounded;
}

// The same for products alone. They do not read the bits behind those of TF32, which are left as they are:
// the compiler leaves them, too, between the conversion and a product, but not on the way to memory.
LASFAST_DEVICE uint32_t round_to_tf32(uint32_t bits) {
  return fabsf(__uint_as_float(bits)) < infinity() ? bits + 0x1000u : bits;
}

// ---- matrices, a warpgroup together: four warps, the first of which is a multiple of four

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
constexpr bool has_warpgroups = true;
#else
constexpr bool has_warpgroups = false;  // nothing below may be used
#endif

// Lets the matrix instructions of warpgroups behind the next barrier see what this thread has written to
// shared memory.
LASFAST_DEVICE void publish_to_warpgroups() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Returns an address in shared memory as instructions take it.
LASFAST_DEVICE uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}

// Keeps the compiler from moving these registers between what comes before and what comes after.
template <int M, int N>
LASFAST_DEVICE void keep(float (&sum)[M][N][4]) {
  LASFAST_UNROLL
  for (int m = 0; m < M; ++m) LASFAST_UNROLL
  for (int n = 0; n < N; ++n) LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) asm volatile("" : "+f"(sum[m][n][i])::"memory");
}

// Stand before the first and behind the last of some products. These go on by themselves until they are
// waited for, and until then neither sums nor tiles may be touched.
template <int M, int N>
LASFAST_DEVICE void warpgroup_begin(float (&sum)[M][N][4]) {
  keep(sum);
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
LASFAST_DEVICE void warpgroup_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most `pending` of the last groups are under way.
template <int pending, int M, int N>
LASFAST_DEVICE void warpgroup_wait(float (&sum)[M][N][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
  keep(sum);
}

// sum[64, 8 * N] += a[64, 16] * b[8 * N, 16]^T in bf16 with fp32 sums, of tiles that are described as PTX has
// it (matrix descriptors). With `transposed`, both lie with k from row to row ("MN-major"). Warp w of the
// four has rows 16 * w to 16 * w + 15 of sum, and its threads of each eight columns what mma_bf16 gives them.
// clang-format off
#define LASFAST_SUMS(n) "+f"(sum[n][0]), "+f"(sum[n][1]), "+f"(sum[n][2]), "+f"(sum[n][3])
#define LASFAST_8_SUMS(n)                                                                      \
  LASFAST_SUMS(n), LASFAST_SUMS(n + 1), LASFAST_SUMS(n + 2), LASFAST_SUMS(n + 3),              \
  LASFAST_SUMS(n + 4), LASFAST_SUMS(n + 5), LASFAST_SUMS(n + 6), LASFAST_SUMS(n + 7)
template <bool transposed>
LASFAST_DEVICE void warpgroup_mma(float (&sum)[8][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, "
      "%32, %33, add, 1, 1, %35, %35;\n}"
      : LASFAST_8_SUMS(0)
      : "l"(a), "l"(b), "r"(1), "n"(int{transposed}));
}
template <bool transposed>
LASFAST_DEVICE void warpgroup_mma(float (&sum)[16][4], uint64_t a, uint64_t b) {
  asm volatile(
      "{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
      "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, add, 1, 1, %67, %67;\n}"
      : LASFAST_8_SUMS(0), LASFAST_8_SUMS(8)
      : "l"(a), "l"(b), "r"(1), "n"(int{transposed}));
}
#undef LASFAST_8_SUMS
#undef LASFAST_SUMS
// clang-format on

// ---- copies by tensor maps, which the chip makes by itself once a thread has asked for one

// (fence.proxy.tensormap came with CUDA 12.3.)
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) && \
    (__CUDACC_VER_MAJOR__ > 12 || (__CUDACC_VER_MAJOR__ == 12 && __CUDACC_VER_MINOR__ >= 3))
constexpr bool has_tensor_maps = true;
#else
constexpr bool has_tensor_maps = false;  // nothing below may be used
#endif

// In shared memory: what threads wait at for copies, or for one another. It goes from phase to phase, each of
// which ends once so many threads have arrived in it, and all bytes that these expect have been copied.
struct alignas(8) CopyBarrier {
  uint64_t state;
};

// By one thread, which then has to publish_to_warpgroups(); all others use it behind a barrier.
LASFAST_DEVICE void begin_phases(CopyBarrier* at, int threads) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(at)), "r"(threads) : "memory");
}
// Arrives; what this thread has read before may be overwritten by those who wait.
LASFAST_DEVICE void arrive(CopyBarrier* at) {
  asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(at)) : "memory");
}
// Arrives, and has the phase last until so many bytes, which the copies that follow bring, are there.
LASFAST_DEVICE void arrive_expecting(CopyBarrier* at, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(at)),
               "r"(bytes)
               : "memory");
}
// Waits until a phase of this parity has ended: 0 for the first. It has to be the one at hand or the one
// before.
LASFAST_DEVICE void wait_for_phase(CopyBarrier* at, int parity) {
  int ended;
  do {
    asm volatile(
        "{\n.reg .pred ended;\n"
        "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 ended, [%1], %2;\n"
        "selp.s32 %0, 1, 0, ended;\n}"
        : "=r"(ended)
        : "r"(shared_address(at)), "r"(parity)
        : "memory");
  } while (!ended);
}

// By the thread that copies, before its first copy by a map that the host has written.
LASFAST_DEVICE void see_tensor_map(const TensorMap* map) {
  asm volatile("fence.proxy.tensormap::generic.acquire.sys [%0], 128;" ::"l"(map) : "memory");
}
// Begins to copy what lies under one tap of the windows from one on, in their order: see WindowsMap. `x` and
// `y` are the first column and row of that window in its image, and `tap_x` and `tap_y` those of the tap in
// the window.
LASFAST_DEVICE void copy_windows_async(void* to, const TensorMap* map, CopyBarrier* at, int channel, int x,
                                       int y, int image, int tap_x, int tap_y) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], {%7, %8};" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(at)), "r"(channel), "r"(x), "r"(y), "r"(image),
      "h"(static_cast<uint16_t>(tap_x)), "h"(static_cast<uint16_t>(tap_y))
      : "memory");
}
// Begins to copy elements of rows from one on: see RowsMap.
LASFAST_DEVICE void copy_rows_async(void* to, const TensorMap* map, CopyBarrier* at, int element, int row) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(to)),
      "l"(map), "r"(shared_address(at)), "r"(element), "r"(row)
      : "memory");
}

// Tells the host's stand-in which tile of which kernel this block computes, for the tests to ask.
LASFAST_DEVICE void note_tile(const char*, const char*, int, int, bool) {}

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
LASFAST_DEVICE double exp(double v) { return ::exp(v); }
LASFAST_DEVICE double log(double v) { return ::log(v); }
LASFAST_DEVICE float reciprocal(float v) { return __fdividef(1.f, v); }  // of 1 or more
LASFAST_DEVICE float sqrt(float v) { return sqrtf(v); }
LASFAST_DEVICE double sqrt(double v) { return ::sqrt(v); }

// ---- the host's side

constexpr int64_t max_blocks = 0x7fffffff;
constexpr int64_t max_shared_bytes = 99 << 10;             // of a block, on every GPU from 8.0 on
constexpr int64_t max_warpgroup_shared_bytes = 227 << 10;  // of a block, where there are warpgroups

// Lets a kernel be launched on the current device with as much shared memory as a block may have there.
// Returns the runtime's error number, 0 for none.
int raise_shared_limit(const void* kernel);

// Queues `kernel` over a flat grid; returns the runtime's error number, 0 for none. With `early`, it may
// begin before what is queued before it has ended, and has to wait_for_earlier().
template <typename Argument>
int launch(void (*kernel)(Argument), int64_t blocks, int threads, int64_t shared_bytes, Stream stream,
           const Argument& argument, bool early = false) {
  const auto* const function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > default_shared_bytes)
    if (const int error = raise_shared_limit(function)) return error;
  void* arguments[] = {const_cast<Argument*>(&argument)};
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = early ? 1 : 0;
  const auto error = cudaLaunchKernelExC(&config, function, arguments);
  if (error != cudaSuccess) cudaGetLastError();  // it is reported here, not by whoever launches next
  return static_cast<int>(error);
}

// Queues zeros to so many bytes; returns the runtime's error number, 0 for none.
inline int zero(void* to, int64_t bytes, Stream stream) {
  const auto error = cudaMemsetAsync(to, 0, static_cast<size_t>(bytes), stream);
  if (error != cudaSuccess) cudaGetLastError();
  return static_cast<int>(error);
}

// Returns how many threads a block of this kernel may have on the current device: fewer than it has been
// compiled for, or 0, where there is no code for the device.
template <typename Argument>
int allowed_threads(void (*kernel)(Argument)) {
  cudaFuncAttributes attributes{};
  const auto error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
  if (error == cudaSuccess) return attributes.maxThreadsPerBlock;
  cudaGetLastError();
  return 0;
}

// Returns whether a kernel's code for the current device waits for what is queued before it: whether it was
// compiled for 9.0 or later.
template <typename Argument>
bool waits_for_earlier(void (*kernel)(Argument)) {
  cudaFuncAttributes attributes{};
  const auto error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(kernel));
  if (error != cudaSuccess) cudaGetLastError();
  return error == cudaSuccess && attributes.ptxVersion >= 90;
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
