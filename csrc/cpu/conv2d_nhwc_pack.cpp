// Forward and gradient of the input of a convolution on dense NHWC values as convolutions of a schedule:
// their shapes, and their weights.
#include <algorithm>
#include <cstring>

#include "conv2d_nhwc_layout.h"
#include "schedule_pack.h"

namespace lasfast {

constexpr int64_t joined_positions = 32;

Convolution::Convolution(const Conv2dNhwcParams& p, Pass pass_, Isa isa)
    : pass(pass_),
      storage(p.storage),
      phased(pass == Pass::grad_input && p.stride > 1),
      width(p.c_out),
      phases(1),
      phase{},
      kernel(p.kernel),
      stride(p.stride),
      padding(p.padding),
      tile(p.tile),
      images(p.batch),
      in_channels(p.c_in),
      in_height(p.height),
      in_width(p.width),
      out_channels(p.c_out),
      out_height(p.out_height),
      out_width(p.out_width) {
  if (p.kernel == 1 && p.stride == 1 && p.padding == 0) {
    // All positions are alike: images of a few are joined, so that an item reads the weight for more of them.
    int64_t joined = 1;
    while (images % 2 == 0 && joined * p.height * p.width < joined_positions) images /= 2, joined *= 2;
    in_height *= joined;
    out_height *= joined;
  }
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
  // A vector's (and tile's) output channels are of one phase.
  width = phased ? round_to(p.c_in, schedule_kernels(isa).width) : p.c_in;
  in_channels = p.c_out;
  out_channels = phases * phases * width;
  if (p.kernel == 1 && p.stride == 1 && p.padding == 0) return;
  in_height = p.out_height;
  in_width = p.out_width;
  // Without taps beside its own, a position beyond the gradient is zero.
  out_height = kernel == 1 ? p.out_height : divide_up(p.height, s);
  out_width = kernel == 1 ? p.out_width : divide_up(p.width, s);
}

Operation Convolution::operation() const {
  Operation op{};
  op.kind = Kind::conv2d;
  op.groups = 1;
  op.kernel = static_cast<int32_t>(kernel);
  op.stride = static_cast<int32_t>(stride);
  op.padding = static_cast<int32_t>(padding);
  op.out_channels = static_cast<int32_t>(out_channels);
  op.tile = static_cast<int32_t>(tile);
  return op;
}

// The input, of a size that gives the output's where it is padded alike on both sides.
Value Convolution::input() const {
  Value value{};
  value.channels = static_cast<int32_t>(in_channels);
  value.height = static_cast<int32_t>((out_height - 1) * stride + kernel - 2 * padding);
  value.width = static_cast<int32_t>((out_width - 1) * stride + kernel - 2 * padding);
  return value;
}

CellConvolution Convolution::in_cells(Isa isa) const {
  CellConvolution conv(operation(), input(), storage, isa, images);
  if (phased) conv.cells.columns = 1;  // of which each phase has its own
  return conv;
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

  // The tap of the weight that a tap of the window stands for; -1: none.
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
  // Returns how many output channels from `out` on there are in its phase.
  int64_t outs(int64_t out) const { return (transposed() ? p.c_in : p.c_out) - out % c.width; }

  float operator()(int64_t out, int64_t row, int64_t column, int64_t channel) const {
    const int64_t tap = offset(out, row, column);
    if (tap < 0 || outs(out) < 1) return 0.f;
    return value(weight[tap + out % c.width * out_step() + channel * in_step()]);
  }
};

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

// Output channels that are packed together, from `out` on: their taps, and their place.
struct Block {
  int64_t out, outs, width;  // width: `outs`, rounded up
  int64_t taps, offset[most_taps];
  char* packed;
};

template <class W>
void pack_floats(const Source<W>& source, const CellConvolution& conv, const Block& block) {
  const W* const weight = source.weight + block.out % source.c.width * source.out_step();
  const int64_t out_step = source.out_step(), in_step = source.in_step();
  auto* to = reinterpret_cast<float*>(block.packed);
  for (int64_t t = 0; t < block.taps; ++t)
    for (int64_t c = 0; c < conv.channels; ++c, to += block.width) {
      const int64_t outs = block.offset[t] < 0 ? 0 : block.outs;
      const W* const from = weight + std::max<int64_t>(0, block.offset[t]) + c * in_step;
      for (int64_t i = 0; i < outs; ++i) to[i] = source.value(from[i * out_step]);
      for (int64_t i = outs; i < block.width; ++i) to[i] = 0.f;
    }
}

#ifdef LASFAST_HAS_AVX512_BF16
template <class W>
PackPairs pairs_of(const Source<W>& source, const CellConvolution& conv, const Block& block) {
  PackPairs pairs{};
  pairs.weight = source.weight + block.out % source.c.width * source.out_step();
  pairs.bf16 = source.p.weight == Dtype::bfloat16;
  pairs.outs = std::min(tile_cells, block.outs);
  pairs.channels = conv.channels;
  pairs.out_step = source.out_step();
  pairs.in_step = source.in_step();
  pairs.tap_offset = block.offset;
  pairs.taps = block.taps;
  pairs.packed = reinterpret_cast<Bf16*>(block.packed);
  return pairs;
}

template <class W>
void pack_by_tiles(const Source<W>& source, const CellConvolution& conv, const Block& block) {
  PackPairs pairs = pairs_of(source, conv, block);
  const bool shared = conv.cells.columns > 1;  // the last piece's cells hold several columns
  if (shared) pairs.channels = (conv.cells.chunks - 1) * tile_depth;
  pairs.pairs = divide_up(pairs.channels, tile_depth) * tile_depth / 2;
  pairs.pair_step = 2 * tile_cells;
  pairs.tap_step = tile_values;
  pairs.piece_step = block.taps * tile_values;
  avx512_bf16_pack_pairs(pairs);
  if (shared)
    pack_tiles(conv, source.c.out_channels, block.out, (conv.cells.chunks - 1) * block.taps, source,
               reinterpret_cast<uint16_t*>(block.packed));
}

template <class W>
void pack_by_pairs(const Source<W>& source, const CellConvolution& conv, const Block& block) {
  PackPairs pairs = pairs_of(source, conv, block);
  pairs.pairs = conv.cells.size;
  pairs.pair_step = 2 * block.width;
  pairs.tap_step = pairs.pairs * pairs.pair_step;
  pairs.piece_step = tile_cells * pairs.pair_step;
  avx512_bf16_pack_pairs(pairs);
  if (block.width == tile_cells) return;
  pairs.weight = static_cast<const W*>(pairs.weight) + tile_cells * pairs.out_step;
  pairs.outs = block.outs - tile_cells;
  pairs.packed += 2 * tile_cells;
  avx512_bf16_pack_pairs(pairs);
}
#else
template <class W>
void pack_by_pairs(const Source<W>& source, const CellConvolution& conv, const Block& block) {
  const W* const weight = source.weight + block.out % source.c.width * source.out_step();
  const int64_t out_step = source.out_step(), in_step = source.in_step();
  auto* to = reinterpret_cast<uint16_t*>(block.packed);
  for (int64_t t = 0; t < block.taps; ++t)
    for (int64_t c = 0; c < 2 * conv.cells.size; c += 2)
      for (int64_t i = 0; i < block.width; ++i)
        for (int64_t k = c; k < c + 2; ++k) {
          const bool exists = block.offset[t] >= 0 && i < block.outs && k < conv.channels;
          *to++ = to_bf16(exists ? source.value(weight[block.offset[t] + i * out_step + k * in_step]) : 0.f);
        }
}
#endif

template <class W>
void pack(const Source<W>& source, const CellConvolution& conv, int threads, Isa isa, char* packed) {
  const Convolution& c = source.c;
  const int64_t vector = schedule_kernels(isa).width, most = conv.tiles ? tile_cells : 2 * vector;
  const int64_t blocks = divide_up(c.width, most);  // of a phase
  const auto channel_bytes = [&](int64_t taps) {
    if (!conv.tiles) return 4 * taps * conv.cells.size;
    return 2 * tile_depth * (c.phased ? taps * conv.cells.chunks : tile_steps(conv));
  };
  const int64_t items = c.phases * c.phases * blocks;
  const int team = paying_threads(threads, items, weight_count(source.p) * weight_ns);
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t i = 0; i < items; ++i) {
    const int64_t phase = i / blocks, first = i % blocks * most;
    Block block;
    block.packed = packed;
    for (int64_t before = 0; before < phase; ++before)
      block.packed += channel_bytes(offsets(source, before * c.width, block.offset)) * c.width;
    block.out = phase * c.width + first;
    block.outs = std::max<int64_t>(0, std::min(most, source.outs(block.out)));
    block.width = c.width - first > vector ? most : vector;
    block.taps = offsets(source, block.out, block.offset);
    block.packed += channel_bytes(block.taps) * first;
    if (conv.pairs) {
      pack_by_pairs(source, conv, block);
      continue;
    }
#ifdef LASFAST_HAS_AVX512_BF16
    if (conv.tiles) {
      pack_by_tiles(source, conv, block);
      continue;
    }
#endif
    pack_floats(source, conv, block);
  }
}

}  // namespace

int64_t packed_bytes(const Convolution& c, const CellConvolution& conv, Isa isa) {
  if (!conv.tiles) return schedule_packed_bytes_cpu(c.operation(), c.input(), c.storage, isa);
  return tile_steps(conv) * divide_up(c.out_channels, tile_cells) * tile_values * 2;
}

void pack_weight(const Conv2dNhwcParams& p, const Convolution& c, const CellConvolution& conv,
                 const void* weight, int threads, Isa isa, char* packed) {
  if (p.weight == Dtype::float32)
    pack(Source<float>{p, c, static_cast<const float*>(weight)}, conv, threads, isa, packed);
  else
    pack(Source<Bf16>{p, c, static_cast<const Bf16*>(weight)}, conv, threads, isa, packed);
}

void pack_winograd(const Conv2dNhwcParams& p, const Convolution& c, const void* weight, int threads, Isa isa,
                   char* packed) {
  const int64_t* step = p.weight_stride;
  WinogradWeight whole = {
      static_cast<const float*>(weight), step[0], step[1], step[2], step[3], p.c_out, p.c_in};
  if (c.pass == Pass::grad_input) {  // input and output change places, and taps are in reverse
    whole.first += 2 * step[2] + 2 * step[3];
    std::swap(whole.out_step, whole.in_step);
    std::swap(whole.out_channels, whole.in_channels);
    whole.row_step = -step[2];
    whole.column_step = -step[3];
  }
  pack_winograd(whole, c.tile, by_pairs(c.storage, isa), schedule_kernels(isa).width, threads, packed);
}

}  // namespace lasfast
