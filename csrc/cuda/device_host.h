// The host's stand-in for a GPU: what device.cuh declares, for a host compiler.
//
// launch() runs a kernel before it returns, block after block. The threads of a block run for real, each on a
// stack of its own, one at a time: a thread runs until it waits for others. What a GPU leaves open is chosen
// to the kernel's disadvantage: shared memory begins as NaN, asynchronous copies happen no sooner than they
// are waited for, and set_reversed(true) has them happen at once, and runs blocks and threads from the last
// to the first, so that a missing barrier, wait or initialization changes results. A block that can go on no
// more is an error of the launch.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <tuple>
#include <vector>

#include "shared_limits.h"
#include "tensor_map.h"

#define LASFAST_KERNEL(threads, blocks) void
#define LASFAST_DEVICE inline
#define LASFAST_CALLED inline
#define LASFAST_UNROLL
#define LASFAST_ROLL

namespace lasfast::device {

using Stream = void*;

struct bfloat16 {
  uint16_t bits;
};

struct alignas(16) Bits16 {
  uint32_t word[4];
};

int thread_index();
int64_t block_index();
void barrier();
void warp_barrier();
void wait_for_earlier();
inline void let_next_begin() {}
void* shared_memory();

template <typename T>
T* shared() {
  return static_cast<T*>(shared_memory());
}

inline int settled(int number) { return number; }
template <typename T>
T* settled(T* pointer) {
  return pointer;
}
inline const char* item_address(const char* items, int number, int bytes) {
  return items + int64_t{number} * bytes;
}
inline int uniform(int value) { return value; }

// Every access of 16 or 4 bytes: a misaligned one ends the program, as on a GPU.
const void* aligned(const void* address, int bytes);
inline const Bits16* aligned16(const void* address) {
  return static_cast<const Bits16*>(aligned(address, 16));
}

inline uint32_t load4(const void* from) {
  uint32_t bits;
  std::memcpy(&bits, aligned(from, 4), sizeof bits);
  return bits;
}
inline void store4(void* to, uint32_t bits) {
  std::memcpy(const_cast<void*>(aligned(to, 4)), &bits, sizeof bits);
}

inline Bits16 load16(const void* from) { return *aligned16(from); }
inline Bits16 load16_shared(const void* from) { return *aligned16(from); }
inline void store16(void* to, const Bits16& bits) { *const_cast<Bits16*>(aligned16(to)) = bits; }

template <typename T>
T load_written(const T* from) {
  return *from;
}
bool is_last_block(uint32_t* counter, int blocks);

void copy16_async(void* shared_to, const void* from, bool valid);
inline void copy16_async_cached(void* shared_to, const void* from, bool valid) {
  copy16_async(shared_to, from, valid);
}
inline void copy16_async_if(bool wanted, void* shared_to, const void* from, bool valid) {
  if (wanted) copy16_async(shared_to, from, valid);
}
void copy_commit();
void copy_wait_for(int pending);
template <int pending>
void copy_wait() {
  copy_wait_for(pending);
}

void load_matrix(uint32_t (&to)[4], const void* shared_row);
void load_matrix_transposed(uint32_t (&to)[4], const void* shared_row);
void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
// Operands that have not been rounded, which a GPU would cut short, are an error of the launch.
void mma_tf32(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);

// Products of warpgroups happen no sooner than they are waited for; those of tiles that some thread wrote to
// and did not publish, or that are described otherwise than as permuted lines of 128 bytes, are an error of
// the launch.
constexpr bool has_warpgroups = true;
void publish_to_warpgroups();
uint32_t shared_address(const void* shared);
void warpgroup_add(float (*sum)[4], int columns, bool transposed, uint64_t a, uint64_t b);
void warpgroup_commit();
void warpgroup_wait_for(int pending);
template <int M, int N>
void warpgroup_begin(float (&)[M][N][4]) {}
template <int pending, int M, int N>
void warpgroup_wait(float (&)[M][N][4]) {
  warpgroup_wait_for(pending);
}
template <bool transposed, int N>
void warpgroup_mma(float (&sum)[N][4], uint64_t a, uint64_t b) {
  warpgroup_add(sum, 8 * N, transposed, a, b);
}

// Copies by tensor maps happen no sooner than some thread waits for the phase that they belong to. It is an
// error of the launch to multiply what this thread has not waited for; to copy to where products under way
// read; to use a map that this thread has not been told to see, or a barrier that was not begun or published.
// To expect more bytes than come is to wait for ever.
constexpr bool has_tensor_maps = true;
struct alignas(8) CopyBarrier {
  uint64_t state;
};
void begin_phases(CopyBarrier* at, int threads);
void arrive_expecting(CopyBarrier* at, int bytes);
inline void arrive(CopyBarrier* at) { arrive_expecting(at, 0); }
void wait_for_phase(CopyBarrier* at, int parity);
void see_tensor_map(const TensorMap* map);
void copy_windows_async(void* to, const TensorMap* map, CopyBarrier* at, int channel, int x, int y, int image,
                        int tap_x, int tap_y);
void copy_rows_async(void* to, const TensorMap* map, CopyBarrier* at, int element, int row);

inline uint32_t bits_of(float v) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  return bits;
}
inline float float_of(uint32_t bits) {
  float v;
  std::memcpy(&v, &bits, sizeof v);
  return v;
}
inline uint32_t to_tf32(uint32_t bits) {
  return float_of(bits) != float_of(bits) ? bits : (bits + 0x1000u) & ~0x1fffu;
}

inline uint32_t round_to_tf32(uint32_t bits) { return to_tf32(bits); }

inline float to_float(float v) { return v; }
inline float to_float(bfloat16 v) { return float_of(uint32_t{v.bits} << 16); }
template <typename T>
T from_float(float v);
template <>
inline float from_float<float>(float v) {
  return v;
}
template <>
inline bfloat16 from_float<bfloat16>(float v) {
  const uint32_t bits = bits_of(v);
  if (v != v) return {static_cast<uint16_t>((bits >> 16) | 0x40u)};
  return {static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16)};
}
inline uint32_t pack_bf16(float first, float second) {
  return from_float<bfloat16>(first).bits | uint32_t{from_float<bfloat16>(second).bits} << 16;
}
inline float exp(float v) { return std::exp(v); }
inline double exp(double v) { return std::exp(v); }
inline double log(double v) { return std::log(v); }
inline float reciprocal(float v) { return 1.f / v; }
inline float infinity() { return std::numeric_limits<float>::infinity(); }
inline float sqrt(float v) { return std::sqrt(v); }
inline double sqrt(double v) { return std::sqrt(v); }

constexpr int64_t max_blocks = 0x7fffffff;
constexpr int64_t max_shared_bytes = 99 << 10;  // what a block may have on every GPU from 8.0 on
constexpr int64_t max_warpgroup_shared_bytes = 227 << 10;

// ---- what tests ask and set

void set_reversed(bool reversed);

// A tile that some block computed: kernel, product, rows, columns, and whether it copied whole vectors.
using NotedTile = std::tuple<std::string, std::string, int, int, bool>;
void note_tile(const char* kernel, const char* product, int rows, int columns, bool whole);
// Returns the tiles that were noted since the last call, each once.
std::vector<NotedTile> noted_tiles();

// A kind of launch: its device and stream, and whether it may begin early.
using NotedLaunch = std::tuple<int, uintptr_t, bool>;
// Returns how many launches of each kind there were since the last call.
std::map<NotedLaunch, int64_t> noted_launches();
// While idle, launches are checked and noted, but no kernel runs.
void set_idle(bool idle);

// Multiplies some copies by tensor maps, leaving out one part of what that takes ("publish", "see",
// "release", "bytes", "wait", "finish") or nothing (""); returns what was wrong, or "no error".
std::string try_copies(const std::string& without);

// Pretends to have a driver that makes tensor maps, as at first, or none.
void set_maps(bool some);

// Pretends to have so many devices, all with the host's memory; one at first.
void set_device_count(int count);

// Returns the bytes of each limit that was set, a kernel's of shared memory, since the last call.
std::vector<int> set_shared_limits();
// Returns whether warpgroups multiply a tile that is described so; in a kernel, others are an error.
bool is_warpgroup_tile(uint64_t descriptor, bool transposed);

// ---- the host's side

// See device.cuh.
int raise_shared_limit(const void* kernel);

// Runs body(argument) as the threads of `blocks` blocks of a kernel; returns 0, or an error number of
// cuda_error_text().
int run_blocks(const void* kernel, void (*body)(const void*), const void* argument, int64_t blocks,
               int threads, int64_t shared_bytes, Stream stream, bool early);

template <typename Argument>
struct Job {
  void (*kernel)(Argument);
  const Argument& argument;

  static void run(const void* job) {
    const auto* const self = static_cast<const Job*>(job);
    self->kernel(self->argument);
  }
};

template <typename Argument>
int launch(void (*kernel)(Argument), int64_t blocks, int threads, int64_t shared_bytes, Stream stream,
           const Argument& argument, bool early = false) {
  const auto* const function = reinterpret_cast<const void*>(kernel);
  if (shared_bytes > default_shared_bytes)
    if (const int error = raise_shared_limit(function)) return error;
  const Job<Argument> job{kernel, argument};
  return run_blocks(function, Job<Argument>::run, &job, blocks, threads, shared_bytes, stream, early);
}

// Counts as a launch.
int zero(void* to, int64_t bytes, Stream stream);

template <typename Argument>
int allowed_threads(void (*)(Argument)) {
  return 1024;
}

template <typename Argument>
bool waits_for_earlier(void (*)(Argument)) {
  return true;
}

class Use {
 public:
  explicit Use(int wanted);
  ~Use();
  Use(const Use&) = delete;
  Use& operator=(const Use&) = delete;

  int error() const { return error_; }

 private:
  int previous_, error_;
};

}  // namespace lasfast::device
