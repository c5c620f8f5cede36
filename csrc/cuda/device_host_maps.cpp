// Copies by tensor maps in the stand-in, and the phases of the barriers that they are waited for at.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "device_host_machine.h"

namespace lasfast::device {
namespace {

std::atomic<bool> no_maps{false};

TensorMap* aligned_map(const TensorMap* map) {
  return const_cast<TensorMap*>(static_cast<const TensorMap*>(aligned(map, alignof(TensorMap))));
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
        if (p.range_a.meets(copy.to) || p.range_b.meets(copy.to)) fail(overwritten);
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

// What a driver refuses.
bool fits(const MapContents& m) {
  const auto small = [](int corner) { return corner >= -128 && corner <= 127; };
  return reinterpret_cast<uintptr_t>(m.values) % 16 == 0 && m.pitch % 8 == 0 && m.lines >= 1 &&
         m.lines <= (m.images ? 1024 : 256) && m.stride >= 1 && m.stride <= 8 && small(-m.padding) &&
         small(m.right - (m.width - 1)) && small(m.bottom - (m.height - 1)) && m.right >= -m.padding &&
         m.bottom >= -m.padding;
}

}  // namespace

bool all_published() {
  return std::all_of(machine.fibres.begin(), machine.fibres.begin() + machine.threads,
                     [](const Fibre& fibre) { return fibre.published; });
}

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

}  // namespace lasfast::device
