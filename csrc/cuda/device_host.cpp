// Threads of a block as fibres: each has a stack and goes on where it left off, all within one thread of the
// operating system.
#include "device_host.h"

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <utility>
#include <vector>

#include "lasfast/device.h"

#if defined(__SANITIZE_ADDRESS__)
#define LASFAST_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define LASFAST_ASAN 1
#endif
#endif
#ifdef LASFAST_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace lasfast::device {
namespace {

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

Machine machine;
std::set<NotedTile> tiles;
std::map<NotedLaunch, int64_t> launches;
std::mutex machine_lock;  // of these three

std::atomic<int> device_count{1};
std::atomic<bool> is_idle{false}, no_maps{false};
thread_local int current_device = 0;

// What the runtime would keep of each kernel, and what it was told to.
struct Runtime {
  std::mutex lock;
  std::map<std::pair<const void*, int>, int> shared_limit;  // of a kernel on a device
  std::vector<int> set;

  int limit_of(const void* kernel) {
    const std::lock_guard<std::mutex> guard(lock);
    const auto found = shared_limit.find({kernel, device::current_device});
    return found == shared_limit.end() ? static_cast<int>(default_shared_bytes) : found->second;
  }

  static int current_device(int* device) {
    *device = device::current_device;
    return none;
  }
  static int most_shared_bytes(const void*, int, int* bytes) {
    *bytes = static_cast<int>(max_warpgroup_shared_bytes);
    return none;
  }
  static int set_shared_limit(const void* kernel, int bytes);
};

Runtime runtime;
SharedLimits<Runtime> shared_limits;

int Runtime::set_shared_limit(const void* kernel, int bytes) {
  const std::lock_guard<std::mutex> guard(runtime.lock);
  runtime.shared_limit[{kernel, device::current_device}] = bytes;
  runtime.set.push_back(bytes);
  return none;
}

void fail(Error error) {
  if (machine.error == none) machine.error = error;
}

void leave_for(Fibre* from, Fibre* to) {
  (void)from;
#ifdef LASFAST_ASAN
  __sanitizer_start_switch_fiber(from ? &from->fake_stack : &machine.outside_fake_stack,
                                 to ? to->stack.get() : machine.outside_stack,
                                 to ? stack_bytes : machine.outside_size);
#endif
  if (!to) _longjmp(machine.outside, 1);
  if (to->started) _longjmp(to->resume, 1);
  to->started = true;
  setcontext(&to->start);
}

void arrived_at(Fibre* at) {
  (void)at;
#ifdef LASFAST_ASAN
  const void* stack = nullptr;
  size_t size = 0;
  __sanitizer_finish_switch_fiber(at ? at->fake_stack : machine.outside_fake_stack, &stack, &size);
  if (!machine.outside_stack) machine.outside_stack = stack, machine.outside_size = size;
#endif
}

// The next thread that can run, from the current one on; null where there is none.
Fibre* next_ready() {
  const int step = machine.reversed ? machine.threads - 1 : 1;
  for (int i = 0, at = machine.current; i < machine.threads; ++i) {
    at = (at + step) % machine.threads;
    if (!machine.fibres[at].ready()) continue;
    machine.current = at;
    return &machine.fibres[at];
  }
  return nullptr;
}

// Lets others run; returns once `self` may go on. Without any that can run, the block is done or stuck.
void yield(Fibre& self) {
  if (_setjmp(self.resume) == 0) leave_for(&self, next_ready());
  arrived_at(&self);
}

void open(Gate& gate) {
  gate.arrived = 0;
  ++gate.opened;
}

void wait_until_open(const Gate& gate) {
  Fibre& self = machine.fibres[machine.current];
  self.gate = &gate;
  self.ticket = gate.opened;
  yield(self);
  self.gate = nullptr;
}

void wait_at(Gate& gate) {
  if (++gate.arrived == gate.expected)
    open(gate);
  else
    wait_until_open(gate);
}

// A thread that has ended is not waited for.
void leave(Gate& gate) {
  if (--gate.expected == gate.arrived && gate.arrived > 0) open(gate);
}

// A fibre runs one thread after another: that with its number in every block.
void live() {
  Fibre& self = machine.fibres[machine.current];
  arrived_at(&self);
  for (;;) {
    machine.body(machine.argument);
    self.finished = true;
    --machine.left;
    leave(machine.block);
    yield(self);
  }
}

void prepare_fibres(int threads) {
  if (machine.fibres.empty()) machine.fibres = std::vector<Fibre>(most_threads);
  for (int i = 0; i < threads; ++i) {
    Fibre& fibre = machine.fibres[i];
    if (fibre.stack) continue;
    fibre.stack.reset(new char[stack_bytes]);  // not zeroed: most of it is never touched
    getcontext(&fibre.start);
    fibre.start.uc_stack.ss_sp = fibre.stack.get();
    fibre.start.uc_stack.ss_size = stack_bytes;
    makecontext(&fibre.start, live, 0);
  }
}

bool run_block() {
  for (int i = 0; i < machine.threads; ++i) {
    Fibre& fibre = machine.fibres[i];
    fibre.finished = false;
    fibre.gate = nullptr;
    fibre.copies.assign(1, {});
    fibre.published = true;
    fibre.products.assign(1, {});
    fibre.waited.clear();
    fibre.seen.clear();
  }
  machine.phases.clear();
  machine.written.clear();
  for (Gate& warp : machine.warps) warp.arrived = 0;
  machine.block = {machine.threads, 0, 0};
  machine.waited = 0;
  machine.left = machine.threads;
  machine.current = machine.reversed ? machine.threads - 1 : 0;
  if (_setjmp(machine.outside) == 0) leave_for(nullptr, &machine.fibres[machine.current]);
  arrived_at(nullptr);
  return machine.left == 0;
}

Exchange& exchange() { return machine.exchanges[machine.current / warp_size]; }
Gate& warp() { return machine.warps[machine.current / warp_size]; }

// The warp's product, by whichever of its threads comes last. `value` reads element k of a row, of the piece
// of 4 bytes that holds it.
template <int depth, typename Value>
void multiply(const Exchange& e, Value value) {
  double a[depth][16], b[depth][8];
  for (int k = 0; k < depth; ++k) {
    const int quarter = k % (depth / 2) * 8 / depth, half = k / (depth / 2);
    for (int m = 0; m < 16; ++m) a[k][m] = value(e.a[m % 8 * 4 + quarter][m / 8 + 2 * half], k);
    for (int n = 0; n < 8; ++n) b[k][n] = value(e.b[n * 4 + quarter][half], k);
  }
  for (int m = 0; m < 16; ++m) {
    double sums[8];
    for (int n = 0; n < 8; ++n) sums[n] = e.sum[m % 8 * 4 + n / 2][m / 8 * 2 + n % 2];
    for (int k = 0; k < depth; ++k)
      for (int n = 0; n < 8; ++n) sums[n] += a[k][m] * b[k][n];
    for (int n = 0; n < 8; ++n) e.sum[m % 8 * 4 + n / 2][m / 8 * 2 + n % 2] = static_cast<float>(sums[n]);
  }
}

template <int depth, typename Value>
void mma(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Value value) {
  Exchange& e = exchange();
  const int lane = machine.current % warp_size;
  e.a[lane] = a, e.b[lane] = b, e.sum[lane] = sum;
  Gate& gate = warp();
  if (gate.arrived == warp_size - 1) multiply<depth>(e, value);
  wait_at(gate);
}

// A tile that a warpgroup reads, by its descriptor (PTX, "matrix descriptor format"): lines of 128 bytes
// whose pieces of 16 are permuted. A line is a row, with its elements of k side by side, and every eight rows
// a stride apart. If `transposed`, it is an element of k, with 64 rows side by side: every eight elements are
// a stride apart, and 64 rows from the next by what PTX calls the leading dimension.
struct WarpgroupTile {
  bool transposed;
  uint32_t first, leading, stride;  // addresses: of the first element; from one to the next
  bool known;

  WarpgroupTile(uint64_t descriptor, bool transposed)
      : transposed(transposed),
        first((descriptor & 0x3fff) << 4),
        leading((descriptor >> 16 & 0x3fff) << 4),
        stride((descriptor >> 32 & 0x3fff) << 4),
        // The hardware permutes by bits 7 to 9 of an address, so without a base offset lines begin with a
        // multiple of 1024, and a tile of 16 elements of k with any 32 bytes of its first row.
        known(descriptor >> 62 == 1 && (descriptor >> 49 & 7) == 0 && stride % 1024 == 0 &&
              (transposed ? first % 1024 == 0 && leading % 1024 == 0
                          : first % 1024 < 128 && first % 32 == 0)) {}

  // Where the tile lies that so many rows make.
  Range range(int rows) const {
    const uint32_t begin = first & ~127u;
    return {begin, transposed ? begin + (rows - 1) / 64 * leading + 2 * stride : begin + rows / 8 * stride};
  }

  float operator()(int row, int k) const {
    constexpr int item = sizeof(bfloat16);
    uint32_t at = first + (transposed ? row / 64 * leading + k / 8 * stride + k % 8 * 128 + row % 64 * item
                                      : row / 8 * stride + row % 8 * 128 + k * item);
    at ^= (at >> 7 & 7) << 4;
    bfloat16 value;
    std::memcpy(&value, machine.shared.get() + (at - shared_begin), sizeof value);
    return to_float(value);
  }
};

// This thread's share: the sums that it has.
void multiply(const WarpgroupProduct& p) {
  const int lane = machine.current % warp_size, first_row = machine.current / warp_size % 4 * 16;
  const WarpgroupTile a(p.a, p.transposed), b(p.b, p.transposed);
  for (int n = 0; n < p.columns / 8; ++n)
    for (int i = 0; i < 4; ++i) {
      const int row = first_row + lane / 4 + i / 2 * 8, column = 8 * n + lane % 4 * 2 + i % 2;
      double sum = p.sum[n][i];
      for (int k = 0; k < 16; ++k) sum += double{a(row, k)} * b(column, k);
      p.sum[n][i] = static_cast<float>(sum);
    }
}

TensorMap* aligned_map(const TensorMap* map) {
  return const_cast<TensorMap*>(static_cast<const TensorMap*>(aligned(map, alignof(TensorMap))));
}

bool all_published() {
  return std::all_of(machine.fibres.begin(), machine.fibres.begin() + machine.threads,
                     [](const Fibre& fibre) { return fibre.published; });
}

// Writes a line of 128 bytes, in permuted pieces; zeros where there is nothing to read.
void write_line(uint32_t to, const char* from) {
  for (int piece = 0; piece < 8; ++piece) {
    const uint32_t at = (to + 16 * piece) ^ (to >> 7 & 7) << 4;
    const Bits16 bits = from ? load16(from + 16 * piece) : Bits16{};
    store16(machine.shared.get() + (at - shared_begin), bits);
  }
}

void run(const MappedCopy& copy) {
  const MapContents& m = copy.from;
  constexpr int64_t item = sizeof(bfloat16);
  int x = copy.x, y = copy.y;
  int64_t image = copy.image;
  for (int line = 0; line < m.lines; ++line) {
    int64_t position = copy.y + line;
    bool inside = position < m.rows;
    if (m.images) {
      const int at_x = x + copy.tap_x, at_y = y + copy.tap_y;
      inside = at_x >= 0 && at_x < m.width && at_y >= 0 && at_y < m.height && image < m.images;
      position = (image * m.height + at_y) * m.width + at_x;
      if ((x += m.stride) > m.right) {
        x = -m.padding;
        if ((y += m.stride) > m.bottom) y = -m.padding, ++image;
      }
    }
    write_line(copy.to.begin + 128 * line,
               inside ? m.values + (position * m.pitch + copy.channel) * item : nullptr);
  }
}

// Ends the phase at hand if all has come; its copies come once somebody waits for them, or `now`.
void settle(Phases& at, bool now) {
  const bool complete = at.gate.arrived == at.gate.expected && at.copied_bytes == at.expected_bytes;
  if (!complete || (!at.copies.empty() && !at.waiting && !now)) return;
  if (!machine.reversed)
    for (const MappedCopy& copy : at.copies) run(copy);
  at.copies.clear();
  at.expected_bytes = at.copied_bytes = 0;
  at.waiting = 0;
  open(at.gate);
}

Phases* phases_at(const CopyBarrier* at) {
  const auto found = machine.phases.find(at);
  if (found != machine.phases.end() && all_published()) return &found->second;
  fail(unpublished);
  return nullptr;
}

void begin_copy(void* to, const TensorMap* map, CopyBarrier* barrier, MappedCopy copy) {
  const auto& seen = machine.fibres[machine.current].seen;
  Phases* const at = phases_at(barrier);
  if (!at) return;
  if (!seen.count(map)) return fail(unseen);
  std::memcpy(&copy.from, map, sizeof copy.from);
  const uint32_t begin = shared_address(to), bytes = static_cast<uint32_t>(128 * copy.from.lines);
  copy.to = {begin, begin + bytes};
  const int elements = copy.from.pitch;
  if (begin % 1024 != 0 || copy.channel < 0 || copy.channel + mapped_elements > elements)
    return fail(bad_map);
  for (int i = 0; i < machine.threads; ++i)
    for (const auto& group : machine.fibres[i].products)
      for (const WarpgroupProduct& p : group)
        if (WarpgroupTile(p.a, p.transposed).range(64).meets(copy.to) ||
            WarpgroupTile(p.b, p.transposed).range(p.columns).meets(copy.to))
          fail(overwritten);
  auto& written = machine.written;
  written.erase(std::remove_if(written.begin(), written.end(),
                               [&](const Written& before) { return before.range.meets(copy.to); }),
                written.end());
  written.push_back({copy.to, at, at->gate.opened});
  if (machine.reversed) run(copy);
  at->copies.push_back(copy);
  at->copied_bytes += bytes;
  settle(*at, false);
}

// Whether this thread has waited for all that was copied there, and something was, if anything is.
bool has_waited_for(const Range& range) {
  auto& waited = machine.fibres[machine.current].waited;
  bool some = machine.phases.empty();
  for (const Written& copy : machine.written) {
    if (!copy.range.meets(range)) continue;
    if (waited[copy.phases] <= copy.phase) return false;
    some = true;
  }
  return some;
}

// What a driver refuses.
bool fits(const MapContents& m) {
  const auto small = [](int corner) { return corner >= -128 && corner <= 127; };
  return reinterpret_cast<uintptr_t>(m.values) % 16 == 0 && m.pitch % 8 == 0 && m.lines >= 1 &&
         m.lines <= (m.images ? 1024 : 256) && m.stride >= 1 && m.stride <= 8 && small(-m.padding) &&
         small(m.right - (m.width - 1)) && small(m.bottom - (m.height - 1)) && m.right >= -m.padding &&
         m.bottom >= -m.padding;
}

}  // namespace

int describe(const WindowsMap& w, TensorMap* map) {
  const MapContents contents{static_cast<const char*>(w.values),
                             w.images,
                             w.height,
                             w.width,
                             w.channels,
                             last_window(w.out_width, w.stride, w.padding),
                             last_window(w.out_height, w.stride, w.padding),
                             w.stride,
                             w.padding,
                             w.positions,
                             0};
  if (no_maps || w.images < 1 || !fits(contents)) return bad_map;
  std::memcpy(aligned_map(map), &contents, sizeof contents);
  return none;
}

int describe(const RowsMap& r, TensorMap* map) {
  const MapContents contents{static_cast<const char*>(r.values),
                             0,
                             1,
                             1,
                             static_cast<int32_t>(r.depth),
                             0,
                             0,
                             1,
                             0,
                             r.together,
                             r.rows};
  if (no_maps || r.rows < 1 || !fits(contents)) return bad_map;
  std::memcpy(aligned_map(map), &contents, sizeof contents);
  return none;
}

void set_maps(bool some) { no_maps = !some; }

void begin_phases(CopyBarrier* at, int threads) {
  machine.phases[at] = {{threads, 0, 0}, 0, 0, {}, 0};
  machine.fibres[machine.current].published = false;
}
void arrive_expecting(CopyBarrier* barrier, int bytes) {
  Phases* const at = phases_at(barrier);
  if (!at) return;
  if (at->gate.arrived == at->gate.expected) settle(*at, true);
  if (at->gate.arrived == at->gate.expected) return fail(stuck);
  ++at->gate.arrived;
  at->expected_bytes += bytes;
  settle(*at, false);
}
void wait_for_phase(CopyBarrier* barrier, int parity) {
  Phases* const at = phases_at(barrier);
  if (!at) return;
  while (static_cast<int>(at->gate.opened % 2) == parity) {
    const unsigned ticket = at->gate.opened;
    ++at->waiting;
    settle(*at, false);
    if (at->gate.opened == ticket) wait_until_open(at->gate);
  }
  machine.fibres[machine.current].waited[at] = at->gate.opened;
}
void see_tensor_map(const TensorMap* map) { machine.fibres[machine.current].seen.insert(aligned_map(map)); }
void copy_windows_async(void* to, const TensorMap* map, CopyBarrier* at, int channel, int x, int y, int image,
                        int tap_x, int tap_y) {
  begin_copy(to, map, at, {{}, {}, channel, x, y, image, tap_x, tap_y});
}
void copy_rows_async(void* to, const TensorMap* map, CopyBarrier* at, int element, int row) {
  begin_copy(to, map, at, {{}, {}, element, 0, row, 0, 0, 0});
}

int thread_index() { return machine.current; }
int64_t block_index() { return machine.block_index; }
void barrier() { wait_at(machine.block); }
void warp_barrier() { wait_at(warp()); }
void wait_for_earlier() { ++machine.waited; }
void* shared_memory() { return machine.shared.get(); }
void set_reversed(bool reversed) { machine.reversed = reversed; }

bool is_last_block(uint32_t* counter, int blocks) {
  barrier();
  if (machine.current == 0) {
    machine.last_block = ++*counter == static_cast<uint32_t>(blocks);
    if (machine.last_block) *counter = 0;
  }
  barrier();
  return machine.last_block;
}

const void* aligned(const void* address, int bytes) {
  if (reinterpret_cast<uintptr_t>(address) % static_cast<unsigned>(bytes) != 0) {
    std::fprintf(stderr, "lasfast: a kernel accesses %d bytes at the misaligned address %p\n", bytes,
                 address);
    std::abort();
  }
  return address;
}

void copy16_async(void* shared_to, const void* from, bool valid) {
  const Copy copy{aligned16(shared_to), aligned16(from), valid};
  if (machine.reversed) copy.run();
  machine.fibres[machine.current].copies.back().push_back(copy);
}
void copy_commit() { machine.fibres[machine.current].copies.emplace_back(); }
void copy_wait_for(int pending) {
  auto& copies = machine.fibres[machine.current].copies;
  while (static_cast<int>(copies.size()) - 1 > pending) {  // the last group is still open
    if (!machine.reversed)
      for (const Copy& copy : copies.front()) copy.run();
    if (!copies.front().empty()) machine.fibres[machine.current].published = false;
    copies.pop_front();
  }
}

void load_matrix(uint32_t (&to)[4], const void* shared_row) {
  Exchange& e = exchange();
  const int lane = machine.current % warp_size;
  e.row[lane] = aligned16(shared_row);
  wait_at(warp());
  for (int i = 0; i < 4; ++i) to[i] = static_cast<const Bits16*>(e.row[8 * i + lane / 4])->word[lane % 4];
  wait_at(warp());  // nobody's address changes before all have read
}
void load_matrix_transposed(uint32_t (&to)[4], const void* shared_row) {
  Exchange& e = exchange();
  const int lane = machine.current % warp_size;
  e.row[lane] = aligned16(shared_row);
  wait_at(warp());
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (int j = 0; j < 2; ++j)
      pair[j] = static_cast<const uint16_t*>(e.row[8 * i + lane % 4 * 2 + j])[lane / 4];
    to[i] = pair[0] | uint32_t{pair[1]} << 16;
  }
  wait_at(warp());
}

void mma_bf16(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma<16>(sum, a, b, [](uint32_t pair, int k) { return float_of(k % 2 ? pair & 0xffff0000u : pair << 16); });
}
void mma_tf32(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  for (const uint32_t bits : {a[0], a[1], a[2], a[3], b[0], b[1]})
    if (bits != to_tf32(bits)) fail(unrounded);
  mma<8>(sum, a, b, [](uint32_t bits, int) { return float_of(bits & ~0x1fffu); });
}

void publish_to_warpgroups() { machine.fibres[machine.current].published = true; }

uint32_t shared_address(const void* shared) {
  return shared_begin + static_cast<uint32_t>(static_cast<const char*>(shared) - machine.shared.get());
}

bool is_warpgroup_tile(uint64_t descriptor, bool transposed) {
  return WarpgroupTile(descriptor, transposed).known;
}

void warpgroup_add(float (*sum)[4], int columns, bool transposed, uint64_t a, uint64_t b) {
  if (!all_published()) fail(unpublished);
  if (!is_warpgroup_tile(a, transposed) || !is_warpgroup_tile(b, transposed)) return fail(bad_tile);
  if (!has_waited_for(WarpgroupTile(a, transposed).range(64)) ||
      !has_waited_for(WarpgroupTile(b, transposed).range(columns)))
    fail(early);
  machine.fibres[machine.current].products.back().push_back({sum, columns, transposed, a, b});
}
void warpgroup_commit() { machine.fibres[machine.current].products.emplace_back(); }
void warpgroup_wait_for(int pending) {
  auto& products = machine.fibres[machine.current].products;
  while (static_cast<int>(products.size()) - 1 > pending) {
    for (const WarpgroupProduct& product : products.front()) multiply(product);
    products.pop_front();
  }
}

void note_tile(const char* kernel, const char* product, int rows, int columns, bool whole) {
  if (machine.current == 0) tiles.emplace(kernel, product, rows, columns, whole);
}

std::vector<NotedTile> noted_tiles() {
  const std::lock_guard<std::mutex> guard(machine_lock);
  const std::vector<NotedTile> noted(tiles.begin(), tiles.end());
  tiles.clear();
  return noted;
}

std::map<NotedLaunch, int64_t> noted_launches() {
  const std::lock_guard<std::mutex> guard(machine_lock);
  return std::exchange(launches, {});
}

void set_device_count(int count) { device_count = count; }
void set_idle(bool idle) { is_idle = idle; }

Use::Use(int wanted)
    : previous_(current_device), error_(wanted >= 0 && wanted < device_count ? none : no_device) {
  if (error_ == none) current_device = wanted;
}
Use::~Use() { current_device = previous_; }

std::vector<int> set_shared_limits() {
  const std::lock_guard<std::mutex> guard(runtime.lock);
  return std::exchange(runtime.set, {});
}

int raise_shared_limit(const void* kernel) { return shared_limits.raise(kernel); }

int run_blocks(const void* kernel, void (*body)(const void*), const void* argument, int64_t blocks,
               int threads, int64_t shared_bytes, Stream stream, bool early) {
  const std::lock_guard<std::mutex> guard(machine_lock);
  if (blocks < 1 || blocks > max_blocks || threads < 1 || threads > most_threads || shared_bytes < 0 ||
      shared_bytes > runtime.limit_of(kernel))
    return bad_launch;
  ++launches[{current_device, reinterpret_cast<uintptr_t>(stream), early}];
  if (is_idle) return none;
  prepare_fibres(threads);
  machine.body = body;
  machine.argument = argument;
  machine.threads = threads;
  const int warps = (threads + warp_size - 1) / warp_size;
  machine.warps.assign(warps, Gate{});
  for (int i = 0; i < warps; ++i) machine.warps[i].expected = std::min(warp_size, threads - i * warp_size);
  machine.exchanges.resize(warps);
  for (int64_t i = 0; i < blocks; ++i) {
    machine.block_index = machine.reversed ? blocks - 1 - i : i;
    // Exactly as much as was asked for, anew for each block, so that tools see an overrun.
    void* shared = nullptr;
    if (posix_memalign(&shared, 1024, static_cast<size_t>(shared_bytes)) != 0) return bad_launch;
    machine.shared.reset(static_cast<char*>(shared));
    std::memset(shared, 0xff, static_cast<size_t>(shared_bytes));
    machine.error = none;
    if (!run_block()) {
      machine.fibres.clear();  // they wait in the middle of a kernel
      return machine.error != none ? machine.error : stuck;
    }
    if (early && machine.waited != threads) fail(unwaited);
    if (machine.error != none) return machine.error;
  }
  return none;
}

}  // namespace lasfast::device

namespace lasfast {

int cuda_runtime_version() { return 0; }
int cuda_driver_version() { return 0; }
int cuda_device_count() { return device::device_count; }

int cuda_limits(int device, CudaLimits* limits) {
  *limits = {2, device::max_shared_bytes, device::max_shared_bytes + 1024, 1024};
  return device >= 0 && device < device::device_count ? device::none : device::no_device;
}

const char* cuda_error_text(int error) {
  switch (error) {
    case device::no_device:
      return "the stand-in has no device of this number";
    case device::bad_launch:
      return "the launch asks for more blocks, threads or shared memory than there are";
    case device::stuck:
      return "some threads wait at a barrier that others never reach";
    case device::unpublished:
      return "a warpgroup multiplies what has not been published to it";
    case device::unwaited:
      return "a launch that may begin early does not wait for earlier ones";
    case device::bad_tile:
      return "a warpgroup multiplies a tile that does not lie as it is described";
    case device::unrounded:
      return "a product of TF32 has an operand that has not been rounded to it";
    case device::bad_map:
      return "a tensor map cannot be made, or is used otherwise than it describes";
    case device::early:
      return "a warpgroup multiplies a copy that it has not waited for";
    case device::overwritten:
      return "a copy goes to where products under way read";
    case device::unseen:
      return "a thread copies by a tensor map that it has not been told to see";
    default:
      return "no error";
  }
}

}  // namespace lasfast
