// 2-D convolution on dense NHWC values: forward and gradient of the input, as the convolutions of a schedule
// (see schedule_kernels.h), of weights that are packed at each call.
//
// The gradient of the input is a convolution of the output's gradient. With a stride s, positions of the
// padded input that are a, b modulo s see those kernel rows and columns only that are a, b modulo s: they are
// s * s convolutions of stride 1, computed as one with as many times the channels, into scratch memory, from
// where each image's rows are put together.
#include "lasfast/conv2d_nhwc.h"

#include <algorithm>
#include <cstring>

#include "conv2d_nhwc_plan.h"
#include "partial_statistics.h"
#include "schedule_check.h"
#include "schedule_pack.h"

namespace lasfast {
namespace {

// A convolution of stride as given, from one dense value to another, and where its weights come from.
struct Convolution {
  Value input;
  Operation op;
  int64_t out_height, out_width;
  int64_t item_bytes;     // of a value
  bool phased;            // the result is that of all phases
  int64_t phases, width;  // gradients: of positions along an axis; channels of one phase

  Convolution(const Conv2dNhwcParams& p, Pass pass);
};

Convolution::Convolution(const Conv2dNhwcParams& p, Pass pass)
    : input{},
      op{},
      item_bytes(p.storage == Storage::float32 ? 4 : 2),
      phased(pass == Pass::grad_input && p.stride > 1),
      phases(1),
      width(p.c_out) {
  op.kind = static_cast<int32_t>(Kind::conv2d);
  op.groups = 1;
  int64_t channels = p.c_in, height = p.height, columns = p.width;
  int64_t kernel = p.kernel, stride = p.stride, padding = p.padding;
  if (pass == Pass::grad_input) {
    channels = p.c_out, height = p.out_height, columns = p.out_width;
    width = p.c_in;
    if (phased) {
      phases = std::min(kernel, stride);
      kernel = divide_up(kernel, stride);
      stride = 1;
      padding = kernel - 1;
    } else {
      padding = kernel - 1 - padding;
    }
  }
  input.channels = static_cast<int32_t>(channels);
  input.height = static_cast<int32_t>(height);
  input.width = static_cast<int32_t>(columns);
  op.kernel = static_cast<int32_t>(kernel);
  op.stride = static_cast<int32_t>(stride);
  op.padding = static_cast<int32_t>(padding);
  op.out_channels = static_cast<int32_t>(phases * phases * width);
  out_height = (height + 2 * padding - kernel) / stride + 1;
  out_width = (columns + 2 * padding - kernel) / stride + 1;
}

// Scratch memory, from the front: packed weights, partial statistics, then each thread's own.
struct Layout {
  DensePlan plan;
  int64_t items, each;  // images of an item
  int64_t packed_bytes, partial_bytes, sums_bytes, phase_bytes;

  Layout(const Conv2dNhwcParams& p, const Convolution& c, Isa isa)
      : plan(c.op, c.input, p.storage, isa, p.batch), each(plan.item_images()) {
    items = divide_up(p.batch, each);
    packed_bytes = round_to(schedule_packed_bytes_cpu(c.op, c.input, p.storage, isa), scratch_line);
    partial_bytes = round_to(items * 2 * c.op.out_channels * 4, scratch_line);
    sums_bytes = round_to(3 * (c.op.out_channels + 16) * 4, scratch_line);
    const int64_t values = each * c.out_height * c.out_width * c.op.out_channels;
    phase_bytes = c.phased ? round_to(values * c.item_bytes, scratch_line) : 0;
  }
  int64_t thread_bytes() const { return sums_bytes + plan.cell_bytes + phase_bytes; }
};

// The weight as the convolution reads it.
template <class W>
struct Source {
  const Conv2dNhwcParams& p;
  const Convolution& c;
  bool transposed;
  const W* weight;

  static float value(float v) { return v; }
  static float value(Bf16 v) {
    const uint32_t bits = uint32_t{v.bits} << 16;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
  }
  // Elements from the first tap to that of an output channel's phase; -1 where there is none.
  int64_t tap(int64_t out, int64_t row, int64_t column) const {
    const int64_t* step = p.weight_stride;
    if (!transposed) return row * step[2] + column * step[3];
    const int64_t phase = out / c.width;
    const int64_t r = phase / c.phases + p.stride * (c.op.kernel - 1 - row);
    const int64_t s = phase % c.phases + p.stride * (c.op.kernel - 1 - column);
    return r < p.kernel && s < p.kernel ? r * step[2] + s * step[3] : -1;
  }
  float operator()(int64_t out, int64_t row, int64_t column, int64_t channel) const {
    const int64_t offset = tap(out, row, column);
    if (offset < 0) return 0.f;
    const int64_t *step = p.weight_stride, own = out % c.width;
    return value(weight[offset + (transposed ? channel * step[0] + own * step[1]
                                             : own * step[0] + channel * step[1])]);
  }
};

// Sixteen output channels from o on, but for a last piece of channels whose cells hold several columns.
// Returns the steps that were packed.
#ifdef LASFAST_HAS_AMX
template <class W>
int64_t pack_pieces(const DensePlan& plan, const Source<W>& source, int64_t o, uint16_t* packed) {
  const Convolution& c = source.c;
  const int64_t* step = source.p.weight_stride;
  const int64_t shared = plan.cells.columns > 1 ? 1 : 0;
  // They are neighbours in the weight, but at the border of two phases.
  if (o / c.width != (std::min<int64_t>(o + tile_cells, c.op.out_channels) - 1) / c.width) return 0;
  int64_t offset[schedule_max_kernel * schedule_max_kernel];
  for (int64_t r = 0; r < plan.kernel; ++r)
    for (int64_t s = 0; s < plan.kernel; ++s) offset[r * plan.kernel + s] = source.tap(o, r, s);
  PackTiles tiles{};
  tiles.weight = source.weight + o % c.width * step[source.transposed ? 1 : 0];
  tiles.bf16 = source.p.weight == Storage::bfloat16;
  tiles.outs = std::min<int64_t>(tile_cells, c.op.out_channels - o);
  tiles.channels = shared ? (plan.cells.chunks - 1) * tile_depth : plan.channels;
  tiles.out_step = step[source.transposed ? 1 : 0];
  tiles.in_step = step[source.transposed ? 0 : 1];
  tiles.tap_offset = offset;
  tiles.taps = plan.kernel * plan.kernel;
  tiles.packed = reinterpret_cast<Bf16*>(packed);
  amx_pack_tiles(tiles);
  return (plan.cells.chunks - shared) * tiles.taps;
}
#else
template <class W>
int64_t pack_pieces(const DensePlan&, const Source<W>&, int64_t, uint16_t*) {
  return 0;
}
#endif

template <class W>
void pack(const Layout& layout, const Source<W>& source, Isa isa, int threads, char* packed) {
  const int64_t outs = source.c.op.out_channels;
  if (!layout.plan.tiles) {
    pack_vectors(layout.plan, outs, schedule_kernels(isa).width, source, reinterpret_cast<float*>(packed));
    return;
  }
  const int64_t block = tile_steps(layout.plan) * tile_values;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (int64_t i = 0; i < divide_up(outs, tile_cells); ++i) {
    auto* const tiles = reinterpret_cast<uint16_t*>(packed) + i * block;
    const int64_t done = pack_pieces(layout.plan, source, i * tile_cells, tiles);
    pack_tiles(layout.plan, outs, i * tile_cells, done, source, tiles);
  }
}

// Images of which all phases were computed, to their places. `from`: [images, out_height, out_width, phases,
// phases, channels] of the convolution.
void interleave(const Conv2dNhwcParams& p, const Convolution& c, const char* from, int64_t images, char* to) {
  const int64_t bytes = p.c_in * c.item_bytes, s = p.stride;
  for (int64_t i = 0; i < images * p.height; ++i, to += p.width * bytes) {
    const int64_t image = i / p.height, padded = i % p.height + p.padding, a = padded % s;
    if (a >= c.phases || padded / s >= c.out_height) {
      std::memset(to, 0, p.width * bytes);
      continue;
    }
    const char* row = from + (image * c.out_height + padded / s) * c.out_width * c.phases * c.phases * bytes;
    for (int64_t x = 0; x < p.width;) {
      const int64_t column = (x + p.padding) / s, b = (x + p.padding) % s;
      const bool there = b < c.phases && column < c.out_width;
      const int64_t count = std::min(p.width - x, b < c.phases ? c.phases - b : s - b);
      if (there)
        std::memcpy(to + x * bytes, row + ((column * c.phases + a) * c.phases + b) * bytes, count * bytes);
      else
        std::memset(to + x * bytes, 0, count * bytes);
      x += count;
    }
  }
}

Status run(const Conv2dNhwcParams& p, Pass pass, const void* input, const void* weight, void* workspace,
           int threads, Isa isa, void* output, float* mean, float* variance) {
  const Convolution c(p, pass);
  const Layout layout(p, c, isa);
  char* const packed = align_scratch(workspace);
  auto* const partial = reinterpret_cast<float*>(packed + layout.packed_bytes);
  char* const own = packed + layout.packed_bytes + layout.partial_bytes;
  const bool transposed = pass == Pass::grad_input;
  if (p.weight == Storage::float32)
    pack(layout, Source<float>{p, c, transposed, static_cast<const float*>(weight)}, isa, threads, packed);
  else
    pack(layout, Source<Bf16>{p, c, transposed, static_cast<const Bf16*>(weight)}, isa, threads, packed);

  ItemArgs args{};
  args.task = Task::dense;
  args.in_channels = c.input.channels;
  args.in_height = c.input.height;
  args.in_width = c.input.width;
  args.out_channels = c.op.out_channels;
  args.out_height = c.out_height;
  args.out_width = c.out_width;
  args.kernel = c.op.kernel;
  args.stride = c.op.stride;
  args.padding = c.op.padding;
  args.weight = packed;
  args.cells = layout.plan.cells;
  const int64_t in_bytes = args.in_channels * args.in_height * args.in_width * c.item_bytes;
  const int64_t out_bytes = c.phased ? p.c_in * p.height * p.width * c.item_bytes
                                     : args.out_channels * args.out_height * args.out_width * c.item_bytes;
  const ScheduleKernels& kernels = schedule_kernels(isa);
#pragma omp parallel for schedule(dynamic) num_threads(threads) firstprivate(args)
  for (int64_t i = 0; i < layout.items; ++i) {
    const int64_t first = i * layout.each;
    char* const scratch = own + thread_number() * layout.thread_bytes();
    char* const result = static_cast<char*>(output) + first * out_bytes;
    char* const phases = scratch + layout.sums_bytes + layout.plan.cell_bytes;
    args.images = std::min(layout.each, p.batch - first);
    args.input = static_cast<const char*>(input) + first * in_bytes;
    args.output = c.phased ? phases : result;
    args.sums = reinterpret_cast<float*>(scratch);
    args.cell_scratch = scratch + layout.sums_bytes;
    args.partial = mean ? partial + i * 2 * args.out_channels : nullptr;
    p.storage == Storage::float32 ? kernels.run_f32(args) : kernels.run_bf16(args);
    if (c.phased) interleave(p, c, phases, args.images, result);
  }
  if (!mean) return {};
  const PartialStatistics statistics{partial,     args.out_channels, layout.items,
                                     layout.each, p.batch,           c.out_height * c.out_width};
  for (int64_t o = 0; o < args.out_channels; ++o) {
    const Moments moments = statistics.merged(o);
    mean[o] = static_cast<float>(moments.mean);
    variance[o] = static_cast<float>(moments.variance);
  }
  return {};
}

bool empty(const Conv2dNhwcParams& p) {
  return p.batch * p.c_in * p.height * p.width * p.c_out * p.out_height * p.out_width == 0;
}

const GradWeightKernels* grad_weight_kernels() {
#ifdef LASFAST_HAS_AMX
  return &amx_grad_weight_kernels;
#else
  return nullptr;
#endif
}

Status check(const Conv2dNhwcParams& p, Pass pass, int threads, Isa isa) {
  if (threads < 1) return invalid("threads must be at least 1");
  return conv2d_nhwc_supported(p, pass, isa);
}

}  // namespace

Status validate(const Conv2dNhwcParams& p) {
  const SlicedConv2dParams sizes{p.batch,      p.c_in,      p.height, p.width,  p.c_out,
                                 p.out_height, p.out_width, p.kernel, p.kernel, p.stride,
                                 p.padding,    1,           {},       {},       {}};
  for (const int64_t size : {p.batch, p.c_in, p.height, p.width, p.c_out, p.stride, p.padding})
    if (size > (1 << 24)) return invalid("a size is out of range");
  for (const int64_t step : p.weight_stride)
    if (step > (1 << 26) || step < -(1 << 26)) return invalid("a stride of the weight is out of range");
  for (const Storage storage : {p.storage, p.weight})
    if (storage != Storage::float32 && storage != Storage::bfloat16) return invalid("a storage is unknown");
  return validate(sizes);
}

Status conv2d_nhwc_supported(const Conv2dNhwcParams& p, Pass pass, Isa isa) {
  if (const Status status = validate(p); !status.ok()) return status;
  if (!isa_supported(isa)) return unsupported("this machine or build lacks the instruction set asked for");
  if (p.storage == Storage::bfloat16 && isa != Isa::amx) return unsupported("bf16 needs amx");
  if (p.storage == Storage::float32 && pass == Pass::grad_weight)
    return unsupported("the weight gradient is for bf16 only");
  if (p.kernel > schedule_max_kernel) return unsupported("the kernel is too large");
  if (empty(p) || pass == Pass::grad_weight) return {};
  const Convolution c(p, pass);
  if (const Status status = check_weighted(c.op, c.input); !status.ok()) return unsupported(status.what);
  return {};
}

int64_t conv2d_nhwc_workspace_cpu(const Conv2dNhwcParams& p, Pass pass, int threads, Isa isa) {
  if (!check(p, pass, threads, isa).ok() || empty(p)) return 0;
  if (pass == Pass::grad_weight) return grad_weight_workspace(p, threads);
  const Layout layout(p, Convolution(p, pass), isa);
  return scratch_line + layout.packed_bytes + layout.partial_bytes + threads * layout.thread_bytes();
}

Status conv2d_nhwc_forward_cpu(const Conv2dNhwcParams& p, const void* input, const void* weight,
                               void* workspace, int threads, Isa isa, void* output, float* mean,
                               float* variance) {
  if (const Status status = check(p, Pass::forward, threads, isa); !status.ok()) return status;
  if (!mean != !variance) return invalid("mean and variance come together");
  if (empty(p)) {
    if (mean || p.batch * p.c_out * p.out_height * p.out_width > 0)
      return invalid("a convolution of nothing has no statistics, and needs channels");
    return {};
  }
  return run(p, Pass::forward, input, weight, workspace, threads, isa, output, mean, variance);
}

Status conv2d_nhwc_grad_input_cpu(const Conv2dNhwcParams& p, const void* grad_output, const void* weight,
                                  void* workspace, int threads, Isa isa, void* grad_input) {
  if (const Status status = check(p, Pass::grad_input, threads, isa); !status.ok()) return status;
  if (empty(p)) {
    std::memset(grad_input, 0,
                p.batch * p.height * p.width * p.c_in * (p.storage == Storage::float32 ? 4 : 2));
    return {};
  }
  return run(p, Pass::grad_input, grad_output, weight, workspace, threads, isa, grad_input, nullptr, nullptr);
}

Status conv2d_nhwc_grad_weight_cpu(const Conv2dNhwcParams& p, const void* grad_output, const void* input,
                                   void* workspace, int threads, Isa isa, float* result) {
  if (const Status status = check(p, Pass::grad_weight, threads, isa); !status.ok()) return status;
  const GradWeightKernels* const kernels = grad_weight_kernels();
  if (!kernels) return unsupported("this build lacks the instruction set asked for");
  if (!empty(p)) {
    grad_weight(p, *kernels, static_cast<const Bf16*>(grad_output), static_cast<const Bf16*>(input),
                workspace, threads, result);
    return {};
  }
  const int64_t* step = p.weight_stride;
  for (int64_t o = 0; o < p.c_out; ++o)
    for (int64_t i = 0; i < p.c_in; ++i)
      for (int64_t r = 0; r < p.kernel; ++r)
        for (int64_t s = 0; s < p.kernel; ++s)
          result[o * step[0] + i * step[1] + r * step[2] + s * step[3]] = 0.f;
  return {};
}

}  // namespace lasfast
