// Threads of a block as fibres: each has a stack and goes on where it left off, all within one thread of the
// operating system.
#include "device_host.h"

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <mutex>
#include <utility>

#include "device_host_machine.h"
#include "lasfast/device.h"

#ifdef LASFAST_ASAN
#include <sanitizer/common_interface_defs.h>
#endif

namespace lasfast::device {

Machine machine;

namespace {

std::set<NotedTile> tiles;
std::map<NotedLaunch, int64_t> launches;
std::mutex machine_lock;  // of these three

std::atomic<int> device_count{1};
std::atomic<bool> is_idle{false};
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

}  // namespace

void fail(Error error) {
  if (machine.error == none) machine.error = error;
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

namespace {

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

}  // namespace

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
  const Range range_a = WarpgroupTile(a, transposed).range(64);
  const Range range_b = WarpgroupTile(b, transposed).range(columns);
  if (!has_waited_for(range_a) || !has_waited_for(range_b)) fail(early);
  machine.fibres[machine.current].products.back().push_back(
      {sum, columns, transposed, a, b, range_a, range_b});
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

int zero(void* to, int64_t bytes, Stream stream) {
  const std::lock_guard<std::mutex> guard(machine_lock);
  ++launches[{current_device, reinterpret_cast<uintptr_t>(stream), false}];
  if (!is_idle) std::memset(to, 0, static_cast<size_t>(bytes));
  return none;
}

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
