// 2-D convolution on dense NHWC values: forward and gradient of the input, as the convolutions of a schedule
// (see schedule_kernels.h), of weights that are packed at each call.
//
// The gradient of the input is a convolution of the output's gradient; with a stride, several (see
// conv2d_nhwc_layout.h), computed as one into scratch memory, from where each image's rows are put together.
#include "lasfast/conv2d_nhwc.h"

#include <algorithm>
#include <cstring>

#include "conv2d_nhwc_layout.h"
#include "dispatch.h"
#include "norm_affine.h"
#include "partial_statistics.h"
#include "schedule_check.h"

namespace lasfast {
namespace {

// Scratch memory, from the front: packed weights, partial statistics, then each thread's own.
struct Layout {
  CellConvolution conv;
  int64_t items, each;  // images of an item
  int64_t weight_bytes, partial_bytes, sums_bytes, own_bytes, phase_bytes;
  WinogradBlock block;  // where the convolution has a tile

  Layout(const Convolution& c, Isa isa)
      : conv(c.in_cells(isa)), each(conv.item_images()), own_bytes(conv.cell_bytes), block{} {
    if (c.tile) {
      const WinogradConvolution tiles = c.in_tiles(isa);
      each = tiles.item_images;
      own_bytes = tiles.block_bytes;
      block = tiles.block;
      conv.cells.group = 1;  // no images are interleaved
    }
    items = divide_up(c.images, each);
    weight_bytes = round_to(packed_bytes(c, conv, isa), scratch_line);
    partial_bytes = round_to(items * 2 * c.out_channels * 4, scratch_line);
    sums_bytes = round_to(3 * (c.out_channels + 16) * 4, scratch_line);
    const int64_t values = each * c.out_height * c.out_width * c.out_channels;
    phase_bytes = c.phased ? round_to(values * itemsize(c.storage), scratch_line) : 0;
  }
  int64_t thread_bytes() const { return sums_bytes + own_bytes + phase_bytes; }
};

// Copies a few lines, faster than a call of memcpy.
void copy(char* to, const char* from, int64_t bytes) {
  for (; bytes >= 32; bytes -= 32, to += 32, from += 32) std::memcpy(to, from, 32);
  for (int64_t i = 0; i < bytes; ++i) to[i] = from[i];
}

// Puts the rows of images together from their phases. What no tap reaches becomes zero.
void interleave(const Conv2dNhwcParams& p, const Convolution& c, const char* from, int64_t images, char* to) {
  const int64_t bytes = p.c_in * itemsize(c.storage), part = c.width * itemsize(c.storage);
  const int64_t row_bytes = p.width * bytes, from_row = c.out_width * c.phases * c.phases * part;
  const bool dense = c.phases == p.stride && part == bytes;
  if (c.phases < p.stride || c.out_height * p.stride < p.height || c.out_width * p.stride < p.width)
    std::memset(to, 0, images * p.height * row_bytes);
  for (int64_t i = 0; i < images; ++i)
    for (int64_t a = 0; a < c.phases; ++a)
      for (int64_t y = c.phase[a].residue; y < std::min(p.height, c.out_height * p.stride); y += p.stride) {
        const char* row = from + (i * c.out_height + y / p.stride) * from_row + a * c.phases * part;
        char* const into = to + (i * p.height + y) * row_bytes;
        for (int64_t x = 0; x < c.out_width; ++x, row += c.phases * c.phases * part) {
          if (dense) {
            copy(into + x * p.stride * bytes, row, std::min(p.stride, p.width - x * p.stride) * bytes);
            continue;
          }
          for (int64_t b = 0; b < c.phases; ++b) {
            const int64_t column = x * p.stride + c.phase[b].residue;
            if (column < p.width) copy(into + column * bytes, row + b * part, bytes);
          }
        }
      }
}

// What becomes of the sums besides that they are stored; all null: nothing.
struct Then {
  float *mean, *variance;
  const Prediction* prediction;
};

Status run(const Conv2dNhwcParams& p, Pass pass, const void* input, const void* weight, void* workspace,
           int threads, Isa isa, void* output, const Then& then = {}) {
  const Convolution c(p, pass, isa);
  const Layout layout(c, isa);
  char* const packed = align_line(workspace);
  auto* const partial = reinterpret_cast<float*>(packed + layout.weight_bytes);  // or scale and shift
  char* const own = packed + layout.weight_bytes + layout.partial_bytes;
  if (c.tile)
    pack_winograd(p, c, weight, threads, isa, packed);
  else
    pack_weight(p, c, layout.conv, weight, threads, isa, packed);

  TapRange ranges[schedule_max_kernel];
  for (int64_t i = 0; i < c.phases; ++i) ranges[i] = c.phase[i].range;
  ItemArgs args{};
  args.task = c.tile ? Task::winograd : Task::dense;
  args.in_channels = c.in_channels;
  args.in_height = c.in_height;
  args.in_width = c.in_width;
  args.out_channels = c.out_channels;
  args.out_height = c.out_height;
  args.out_width = c.out_width;
  args.kernel = c.kernel;
  args.stride = c.stride;
  args.padding = c.padding;
  args.weight = packed;
  args.cells = layout.conv.cells;
  args.winograd = layout.block;
  args.phases = c.phased ? c.phases : 0;
  args.tap_ranges = ranges;
  const Prediction* const prediction = then.prediction;
  if (prediction) {
    for (int64_t o = 0; o < c.out_channels; ++o) {
      const ScaleShift affine = norm_affine(*prediction, o);
      partial[o] = affine.scale;
      partial[c.out_channels + o] = affine.shift;
    }
    args.out = {partial, partial + c.out_channels, prediction->activation};
    args.other_channels = prediction->residual ? prediction->residual_channels : 0;
  }
  const int64_t other_bytes = c.out_height * c.out_width * args.other_channels * itemsize(c.storage);
  const int64_t in_bytes = c.in_channels * c.in_height * c.in_width * itemsize(c.storage);
  const int64_t out_bytes = itemsize(c.storage) * (c.phased ? p.c_in * p.height * p.width
                                                            : c.out_channels * c.out_height * c.out_width);
  const ScheduleKernels& kernels = schedule_kernels(isa);
  const int team = paying_threads(threads, layout.items, multiply_adds(p) * multiply_add_ns);
#pragma omp parallel for schedule(dynamic) num_threads(team) firstprivate(args)
  for (int64_t i = 0; i < layout.items; ++i) {
    const int64_t first = i * layout.each;
    char* const scratch = own + thread_number() * layout.thread_bytes();
    char* const result = static_cast<char*>(output) + first * out_bytes;
    char* const phases = scratch + layout.sums_bytes + layout.own_bytes;
    args.images = std::min(layout.each, c.images - first);
    args.input = static_cast<const char*>(input) + first * in_bytes;
    args.output = c.phased ? phases : result;
    args.sums = reinterpret_cast<float*>(scratch);
    args.cell_scratch = scratch + layout.sums_bytes;
    if (args.other_channels)
      args.other = static_cast<const char*>(prediction->residual) + first * other_bytes;
    args.partial = then.mean ? partial + i * 2 * args.out_channels : nullptr;
    p.storage == Dtype::float32 ? kernels.run_f32(args) : kernels.run_bf16(args);
    if (c.phased) interleave(p, c, phases, args.images, result);
  }
  if (!then.mean) return {};
  const PartialStatistics statistics{partial,     args.out_channels, layout.items,
                                     layout.each, c.images,          c.out_height * c.out_width};
  for (int64_t o = 0; o < args.out_channels; ++o) {
    const Moments moments = statistics.merged(o);
    then.mean[o] = static_cast<float>(moments.mean);
    then.variance[o] = static_cast<float>(moments.variance);
  }
  return {};
}

bool empty(const Conv2dNhwcParams& p) {
  return p.batch * p.c_in * p.height * p.width * p.c_out * p.out_height * p.out_width == 0;
}

constexpr KernelTables<GradWeightKernels> on_floats = {
    {LASFAST_GENERIC(grad_weight_kernels), LASFAST_AVX2(grad_weight_kernels),
     LASFAST_AVX512(grad_weight_kernels), nullptr, nullptr, LASFAST_NEON(grad_weight_kernels), nullptr}};
// The others are not reached: bf16 has been refused there.
constexpr KernelTables<GradWeightKernels> on_bf16 = {
    {LASFAST_GENERIC(grad_weight_kernels), nullptr, nullptr, LASFAST_AVX512_BF16(grad_weight_kernels),
     LASFAST_AMX(grad_weight_kernels), nullptr, LASFAST_NEON_BF16(grad_weight_kernels)}};

const GradWeightKernels& grad_weight_kernels(Dtype storage, Isa isa) {
  return storage == Dtype::float32 ? on_floats[isa] : on_bf16[isa];
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
  if (!is_known(p.storage) || !is_known(p.weight)) return invalid("a storage is unknown");
  return validate(sizes);
}

Status conv2d_nhwc_supported(const Conv2dNhwcParams& p, Pass pass, Isa isa) {
  if (const Status status = validate(p); !status.ok()) return status;
  if (!isa_supported(isa)) return unsupported("this machine or build lacks the instruction set asked for");
  if (p.storage == Dtype::bfloat16 && !multiplies_bf16(isa))
    return unsupported("bf16 needs avx512_bf16, amx or neon_bf16");
  if (p.kernel > schedule_max_kernel) return unsupported("the kernel is too large");
  if (empty(p) || (pass == Pass::grad_weight && !p.tile)) return {};
  if (p.tile && (p.kernel != 3 || p.stride != 1 || p.padding > 2 || p.weight != Dtype::float32))
    return unsupported("a tile is for a kernel of 3, stride 1, a padding of 2 at most, and an fp32 weight");
  if (p.tile && pass == Pass::grad_weight && p.storage != Dtype::float32)
    return unsupported("the gradient of a weight has tiles in fp32 alone");
  if (pass == Pass::grad_input && p.kernel + p.padding > schedule_max_kernel)
    return unsupported("the padding is too large");
  const Convolution c(p, pass == Pass::grad_weight ? Pass::forward : pass, isa);
  if (const Status status = check_weighted(c.operation(), c.input()); !status.ok())
    return unsupported(status.what);
  if (const Status status = check_winograd(c.operation(), p.storage, isa); !status.ok())
    return unsupported(status.what);
  return {};
}

int64_t conv2d_nhwc_workspace_cpu(const Conv2dNhwcParams& p, Pass pass, int threads, Isa isa) {
  if (!check(p, pass, threads, isa).ok() || empty(p)) return 0;
  if (pass == Pass::grad_weight)
    return p.tile ? winograd_grad_weight_workspace(p, threads)
                  : grad_weight_workspace(p, grad_weight_kernels(p.storage, isa), threads);
  const Layout layout(Convolution(p, pass, isa), isa);
  return scratch_line + layout.weight_bytes + layout.partial_bytes + threads * layout.thread_bytes();
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
  return run(p, Pass::forward, input, weight, workspace, threads, isa, output, {mean, variance, nullptr});
}

Status conv2d_nhwc_predict_cpu(const Conv2dNhwcParams& p, const void* input, const void* weight,
                               const Prediction& then, void* workspace, int threads, Isa isa, void* output) {
  if (const Status status = check(p, Pass::forward, threads, isa); !status.ok()) return status;
  if (const Status status = validate(then, p.c_out); !status.ok()) return status;
  if (empty(p))
    return p.batch * p.c_out * p.out_height * p.out_width > 0 ? invalid("nothing is convolved") : Status{};
  return run(p, Pass::forward, input, weight, workspace, threads, isa, output, {nullptr, nullptr, &then});
}

Status conv2d_nhwc_grad_input_cpu(const Conv2dNhwcParams& p, const void* grad_output, const void* weight,
                                  void* workspace, int threads, Isa isa, void* grad_input) {
  if (const Status status = check(p, Pass::grad_input, threads, isa); !status.ok()) return status;
  if (empty(p)) {
    std::fill_n(static_cast<char*>(grad_input), p.batch * p.height * p.width * p.c_in * itemsize(p.storage),
                0);
    return {};
  }
  return run(p, Pass::grad_input, grad_output, weight, workspace, threads, isa, grad_input);
}

Status conv2d_nhwc_grad_weight_cpu(const Conv2dNhwcParams& p, const void* grad_output, const void* input,
                                   void* workspace, int threads, Isa isa, float* result) {
  if (const Status status = check(p, Pass::grad_weight, threads, isa); !status.ok()) return status;
  if (!empty(p)) {
    const auto run = p.tile ? winograd_grad_weight : grad_weight;
    run(p, grad_weight_kernels(p.storage, isa), grad_output, input, workspace, threads, result);
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
