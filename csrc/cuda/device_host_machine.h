// The state of the host's stand-in for a GPU, for the files that implement it.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <vector>

#include "device_host.h"

#if defined(__SANITIZE_ADDRESS__)
#define LASFAST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LASFAST_ASAN 1
#endif
#endif

namespace lasfast::device {

constexpr int warp_size = 32, most_threads = 1024;
constexpr size_t stack_bytes = 256 << 10;

enum Error {
  none = 0,
  no_device = 1,
  bad_launch = 2,
  stuck = 3,
  unpublished = 4,
  unwaited = 5,
  bad_tile = 6,
  unrounded = 7,
  bad_map = 8,
  early = 9,
  overwritten = 10,
  unseen = 11
};

// Where shared memory begins, by the addresses in it: a GPU keeps the first KiB to itself.
constexpr uint32_t shared_begin = 1024;

// A place where `expected` threads wait for one another.
struct Gate {
  int expected = 0, arrived = 0;
  unsigned opened = 0;
};

struct Copy {
  const void *to, *from;
  bool valid;

  void run() const { store16(const_cast<void*>(to), valid ? load16(from) : Bits16{}); }
};

// A range of shared memory, by its addresses.
struct Range {
  uint32_t begin, end;

  bool meets(const Range& other) const { return begin < other.end && other.begin < end; }
};

// One thread's share of a warpgroup's product.
struct WarpgroupProduct {
  float (*sum)[4];
  int columns;
  bool transposed;
  uint64_t a, b;
  Range range_a, range_b;
};

// What a tensor map says here: of which tensor, and by what boxes it is copied.
struct MapContents {
  const char* values;
  int64_t images;                // 0: it is of rows
  int32_t height, width, pitch;  // pitch: elements from one position or row to the next
  int32_t right, bottom;         // where the last windows begin
  int32_t stride, padding;
  int32_t lines;  // of 128 bytes, that a copy brings
  int64_t rows;
};
static_assert(sizeof(MapContents) <= sizeof(TensorMap));

// A copy by a tensor map, from a window's corner or a row on.
struct MappedCopy {
  Range to;
  MapContents from;
  int channel, x, y, image, tap_x, tap_y;  // or: element, -, row
};

// Threads that wait for a phase, and the copies that it waits for.
struct Phases;

// A copy that has been asked for, to where nothing else has been copied since.
struct Written {
  Range range;
  const Phases* phases;
  unsigned phase;
};

struct Fibre {
  std::unique_ptr<char[]> stack;
  ucontext_t start;
  jmp_buf resume;
  bool started = false, finished = true;
  const Gate* gate = nullptr;
  unsigned ticket = 0;  // what `gate->opened` was when it began to wait
  std::deque<std::vector<Copy>> copies;
  bool published = true;  // what has been copied to shared memory
  std::deque<std::vector<WarpgroupProduct>> products;
  std::map<const Phases*, unsigned> waited;  // how many phases of each have ended for this thread
  std::set<const TensorMap*> seen;
#ifdef LASFAST_ASAN
  void* fake_stack = nullptr;
#endif

  bool ready() const { return !finished && (!gate || gate->opened != ticket); }
};

struct Phases {
  Gate gate;  // `opened`: how many phases have ended
  int64_t expected_bytes = 0, copied_bytes = 0;
  std::vector<MappedCopy> copies;
  int waiting = 0;  // threads, for the phase at hand
};

// What the threads of a warp show one another.
struct Exchange {
  const void* row[warp_size];
  const uint32_t *a[warp_size], *b[warp_size];
  float* sum[warp_size];
};

struct Machine {
  std::vector<Fibre> fibres;
  std::vector<Gate> warps;
  std::vector<Exchange> exchanges;
  Gate block;
  std::map<const CopyBarrier*, Phases> phases;
  std::vector<Written> written;
  void (*body)(const void*) = nullptr;
  const void* argument = nullptr;
  std::unique_ptr<char, void (*)(void*)> shared{nullptr, std::free};
  int64_t block_index = 0;
  int threads = 0, current = 0, left = 0;
  Error error = none;
  bool reversed = false, last_block = false;
  int waited = 0;  // threads of the block that have waited for earlier launches
  jmp_buf outside;
#ifdef LASFAST_ASAN
  void* outside_fake_stack = nullptr;
  const void* outside_stack = nullptr;
  size_t outside_size = 0;
#endif
};

extern Machine machine;

// Makes an error the launch's, unless another is.
void fail(Error error);

// Lets those who wait at a gate go on.
void open(Gate& gate);
void wait_until_open(const Gate& gate);

// Whether all that threads have written to shared memory is published to warpgroups and copies.
bool all_published();

// Whether this thread has waited for all that was copied there by tensor maps, and something was, if anything
// is.
bool has_waited_for(const Range& range);

}  // namespace lasfast::device
