// Forward and gradient of the input of a convolution on dense NHWC values as convolutions of a schedule:
// their shapes, and their weights.
#include <algorithm>
#include <cstring>

#include "conv2d_nhwc_plan.h"
#include "schedule_pack.h"

namespace lasfast {

Convolution::Convolution(const Conv2dNhwcParams& p, Pass pass_, Isa isa)
    : pass(pass_),
      storage(p.storage),
      tiles(by_tiles(p.storage, isa)),
      phased(pass == Pass::grad_input && p.stride > 1),
      width(p.c_out),
      phases(1),
      phase{},
      kernel(p.kernel),
      stride(p.stride),
      padding(p.padding),
      in_channels(p.c_in),
      in_height(p.height),
      in_width(p.width),
      out_channels(p.c_out),
      out_height(p.out_height),
      out_width(p.out_width) {
  if (pass == Pass::forward) return;
  // Row y = s * u + residue sees, of tap r, row (y + padding - r) / s of the gradient, where that is an
  // integer: rows u + first .. u + last. The window that holds those of all phases is the kernel.
  const int64_t s = p.stride;
  int64_t first[schedule_max_kernel], last[schedule_max_kernel], low = 0, high = 0;
  phases = 0;
  for (int64_t residue = 0; residue < s; ++residue) {
    const int64_t tap = (residue + p.padding) % s;
    if (tap >= p.kernel) continue;
    last[phases] = (residue + p.padding) / s;
    first[phases] = last[phases] - (p.kernel - 1 - tap) / s;
    low = std::min(low, first[phases]);
    high = std::max(high, last[phases]);
    phase[phases++] = {residue, tap, {}};
  }
  for (int64_t i = 0; i < phases; ++i) phase[i].range = {first[i] - low, last[i] - low};
  kernel = high - low + 1;
  stride = 1;
  padding = -low;
  width = phased && tiles ? round_to(p.c_in, tile_cells) : p.c_in;  // a tile's output channels have one phase
  in_channels = p.c_out;
  in_height = p.out_height;
  in_width = p.out_width;
  out_channels = phases * phases * width;
  // Without taps beside its own, a position beyond the gradient is zero.
  out_height = kernel == 1 ? p.out_height : divide_up(p.height, s);
  out_width = kernel == 1 ? p.out_width : divide_up(p.width, s);
}

Operation Convolution::operation() const {
  Operation op{};
  op.kind = static_cast<int32_t>(Kind::conv2d);
  op.groups = 1;
  op.kernel = static_cast<int32_t>(kernel);
  op.stride = static_cast<int32_t>(stride);
  op.padding = static_cast<int32_t>(padding);
  op.out_channels = static_cast<int32_t>(out_channels);
  return op;
}

// Of a size that, padded alike on both sides, gives the output's.
Value Convolution::input() const {
  Value value{};
  value.channels = static_cast<int32_t>(in_channels);
  value.height = static_cast<int32_t>((out_height - 1) * stride + kernel - 2 * padding);
  value.width = static_cast<int32_t>((out_width - 1) * stride + kernel - 2 * padding);
  return value;
}

DensePlan Convolution::plan(Isa isa, int64_t images) const {
  DensePlan plan(operation(), input(), storage, isa, images);
  if (phased) plan.cells.columns = 1;  // of which each phase has its own
  return plan;
}

namespace {

// The weight as the convolution reads it.
template <class W>
struct Source {
  const Conv2dNhwcParams& p;
  const Convolution& c;
  const W* weight;

  static float value(float v) { return v; }
  static float value(Bf16 v) {
    const uint32_t bits = uint32_t{v.bits} << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  }

  bool transposed() const { return c.pass == Pass::grad_input; }
  const Convolution::Phase& row_phase(int64_t out) const { return c.phase[out / c.width / c.phases]; }
  const Convolution::Phase& column_phase(int64_t out) const { return c.phase[out / c.width % c.phases]; }

  // Which tap of the weight one of the window is; -1: none.
  int64_t tap(const Convolution::Phase& phase, int64_t place) const {
    if (place < phase.range.first || place > phase.range.last) return -1;
    return phase.tap + (phase.range.last - place) * p.stride;
  }
  // Elements from the weight's first tap to that of an output channel's phase; -1 where there is none.
  int64_t offset(int64_t out, int64_t row, int64_t column) const {
    if (transposed()) row = tap(row_phase(out), row), column = tap(column_phase(out), column);
    return row < 0 || column < 0 ? -1 : row * p.weight_stride[2] + column * p.weight_stride[3];
  }
  int64_t out_step() const { return p.weight_stride[transposed() ? 1 : 0]; }
  int64_t in_step() const { return p.weight_stride[transposed() ? 0 : 1]; }
  // Of output channels from `out` on, how many there are in its phase.
  int64_t outs(int64_t out) const { return (transposed() ? p.c_in : p.c_out) - out % c.width; }

  float operator()(int64_t out, int64_t row, int64_t column, int64_t channel) const {
    const int64_t tap = offset(out, row, column);
    if (tap < 0 || outs(out) < 1) return 0.f;
    return value(weight[tap + out % c.width * out_step() + channel * in_step()]);
  }
};

#ifdef LASFAST_HAS_AMX

constexpr int64_t most_taps = schedule_max_kernel * schedule_max_kernel;

// Offsets of the taps that output channel `out` has.
template <class W>
int64_t offsets(const Source<W>& source, int64_t out, int64_t* offset) {
  const Convolution& c = source.c;
  int64_t count = 0;
  for (int64_t r = 0; r < c.kernel; ++r)
    for (int64_t s = 0; s < c.kernel; ++s) {
      const int64_t tap = source.offset(out, r, s);
      // Without phases all taps count, if only as zeros.
      if (tap >= 0 || !c.phased) offset[count++] = tap;
    }
  return count;
}

template <class W>
void pack_all_tiles(const Source<W>& source, const DensePlan& plan, int threads, Bf16* packed) {
  const Convolution& c = source.c;
  const int64_t shared = plan.cells.columns > 1 ? 1 : 0;  // pieces whose cells hold several columns
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < divide_up(c.out_channels, tile_cells); ++i) {
    const int64_t out = i * tile_cells;
    int64_t offset[most_taps];
    Bf16* to = packed;
    if (c.phased)
      for (int64_t o = 0; o + c.width <= out; o += c.width)
        to += offsets(source, o, offset) * plan.cells.chunks * (c.width / tile_cells) * tile_values;
    PackTiles tiles{};
    tiles.taps = offsets(source, out, offset);
    const int64_t steps = c.phased ? tiles.taps * plan.cells.chunks : tile_steps(plan);
    to += (c.phased ? out % c.width / tile_cells : i) * steps * tile_values;
    tiles.weight = source.weight + out % c.width * source.out_step();
    tiles.bf16 = source.p.weight == Storage::bfloat16;
    tiles.outs = std::min(tile_cells, source.outs(out));
    tiles.channels = shared ? (plan.cells.chunks - 1) * tile_depth : plan.channels;
    tiles.out_step = source.out_step();
    tiles.in_step = source.in_step();
    tiles.tap_offset = offset;
    tiles.packed = to;
    amx_pack_tiles(tiles);
    if (shared)
      pack_tiles(plan, c.out_channels, out, (plan.cells.chunks - 1) * tiles.taps, source,
                 reinterpret_cast<uint16_t*>(to));
  }
}
#endif

template <class W>
void pack(const Source<W>& source, const DensePlan& plan, int threads, Isa isa, void* packed) {
#ifdef LASFAST_HAS_AMX
  if (source.c.tiles) {
    pack_all_tiles(source, plan, threads, static_cast<Bf16*>(packed));
    return;
  }
#endif
  (void)threads;
  pack_vectors(plan, source.c.out_channels, schedule_kernels(isa).width, source, static_cast<float*>(packed));
}

}  // namespace

int64_t packed_bytes(const Convolution& c, const DensePlan& plan, Isa isa) {
  if (!c.tiles) return schedule_packed_bytes_cpu(c.operation(), c.input(), c.storage, isa);
  return tile_steps(plan) * divide_up(c.out_channels, tile_cells) * tile_values * 2;
}

void pack_weight(const Conv2dNhwcParams& p, const Convolution& c, const DensePlan& plan, const void* weight,
                 int threads, Isa isa, void* packed) {
  if (p.weight == Storage::float32)
    pack(Source<float>{p, c, static_cast<const float*>(weight)}, plan, threads, isa, packed);
  else
    pack(Source<Bf16>{p, c, static_cast<const Bf16*>(weight)}, plan, threads, isa, packed);
}

}  // namespace lasfast
