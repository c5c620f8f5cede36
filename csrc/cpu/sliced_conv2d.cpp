// Sliced 2-D convolution on the CPU, fp32: forward and both gradients.
//
// Forward and input gradient: an item of work is a band of rows of one image and group. A thread copies the
// band into planes of its own (see planes.h) and correlates them with the weight slice, which is read where
// it lies. A stride s splits the larger side into s * s phases, each of which is a correlation of stride 1.
// Weight gradient: a few images at a time are copied by all threads together; then each thread owns a part of
// the result and sums over those images, in order. No result is ever the sum of what several threads made.
//
// Weights that hold an Inf or NaN take a plain loop that leaves padding out, since planes would multiply it
// by zero. Non-finite inputs need no such care in the forward pass (rows' ends are dropped); in the weight
// gradient they are summed row by row, without the rows' ends.

#include "lasfast/sliced_conv2d.h"

#include <algorithm>
#include <cstring>

#include "dispatch.h"
#include "plane_layout.h"
#include "planes.h"
#include "threads.h"

namespace lasfast {
namespace {

constexpr int64_t band_floats = 128 << 10;  // of planes per item: a quarter of a usual second-level cache
constexpr int64_t block_floats = 1 << 20;   // of planes per block of images in the weight gradient

constexpr KernelTables<PlaneKernels> kernels = {{LASFAST_GENERIC(plane_kernels), LASFAST_AVX2(plane_kernels),
                                                 LASFAST_AVX512(plane_kernels), nullptr, nullptr,
                                                 LASFAST_NEON(plane_kernels), nullptr}};

Status check(const SlicedConv2dParams& p, int threads, Isa isa) {
  if (const Status status = validate(p); !status.ok()) return status;
  return check_run(threads, isa);
}

// What a pass takes one thread.
double pass_ns(const SlicedConv2dParams& p) {
  return multiply_add_ns * p.batch * p.c_out * p.out_height * p.out_width * (p.c_in / p.groups) * p.kernel_h *
         p.kernel_w;
}

// Says how forward and input gradient are cut into items.
struct Bands {
  int64_t rows, per_image, item_floats;

  // `total` rows per image, planes of `channels` channels, each `row_floats` per row, with `halo` rows more.
  Bands(const SlicedConv2dParams& p, int64_t total, int64_t channels, int64_t row_floats, int64_t halo,
        int threads) {
    const int64_t fitting = band_floats / std::max<int64_t>(1, channels * row_floats) - halo;
    // A machine with more threads than images cuts finer. At least four rows: a band reads the whole weight.
    const int64_t shared = divide_up(total * p.batch * p.groups, threads);
    rows = std::clamp<int64_t>(std::min(fitting, shared), std::min<int64_t>(4, total), total);
    per_image = divide_up(total, rows);
    item_floats = round_to(channels * (rows + halo) * row_floats + correlate_slack, line);
  }
};

Bands forward_bands(const SlicedConv2dParams& p, const InputPlanes& planes, int threads) {
  return Bands(p, p.out_height, p.c_in / p.groups, planes.phases_h * planes.phases_w * planes.pitch,
               planes.taps_h - 1, threads);
}

int64_t grad_pitch(const GradAxis& x) { return x.high - x.low + x.most_taps; }

Bands grad_input_bands(const SlicedConv2dParams& p, const GradAxis& y, const GradAxis& x, int threads) {
  return Bands(p, y.high - y.low + 1, p.c_out / p.groups, grad_pitch(x), y.most_taps - 1, threads);
}

struct Blocks {
  int64_t left_channel, left_image, plane_image;  // floats, of either side
  int64_t slack;                                  // read past the last plane, to meet zeros
  int64_t images;                                 // per block

  Blocks(const SlicedConv2dParams& p, const InputPlanes& planes)
      : left_channel(round_to(p.out_height * planes.pitch, dot_align)),
        left_image(p.c_out * left_channel),
        plane_image(p.c_in * planes.channel_floats(p.out_height)),
        slack(planes.taps_w + dot_align) {
    images = std::clamp<int64_t>(block_floats / std::max<int64_t>(1, left_image + plane_image), 1, p.batch);
  }
};

bool finite(const float* p, int64_t count) {
  // Inf and NaN have all of these bits. Integers, because compilers vectorize no sum of floats by themselves.
  constexpr uint32_t exponent = 0x7f800000u;
  uint32_t found = 0;
  for (int64_t i = 0; i < count; ++i) {
    uint32_t bits;
    std::memcpy(&bits, p + i, sizeof bits);
    found |= static_cast<uint32_t>((bits & exponent) == exponent);
  }
  return found == 0;
}

bool finite_weight(const SlicedConv2dParams& p, const float* weight) {
  const int64_t *ws = p.weight_stride, cin = p.c_in / p.groups;
  const bool dense = ws[3] == 1 && ws[2] == p.kernel_w && ws[1] == p.kernel_h * p.kernel_w;
  for (int64_t o = 0; o < p.c_out; ++o) {
    const float* filter = weight + o * ws[0];
    if (dense) {
      if (!finite(filter, cin * ws[1])) return false;
      continue;
    }
    for (int64_t i = 0; i < cin; ++i)
      for (int64_t r = 0; r < p.kernel_h; ++r)
        for (int64_t s = 0; s < p.kernel_w; ++s)
          if (!finite(filter + i * ws[1] + r * ws[2] + s * ws[3], 1)) return false;
  }
  return true;
}

// The definition, tap by tap, for weights that must not meet the padding.
void forward_plain(const SlicedConv2dParams& p, const float* input, const float* weight, int threads,
                   float* output) {
  const int64_t cin = p.c_in / p.groups, cout = p.c_out / p.groups;
  const int64_t *is = p.input_stride, *ws = p.weight_stride, *os = p.output_stride;
  const int64_t items = p.batch * p.c_out;
  const int team = paying_threads(threads, items, pass_ns(p));
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t item = 0; item < items; ++item) {
    const int64_t n = item / p.c_out, o = item % p.c_out;
    const float* image = input + n * is[0] + o / cout * cin * is[1];
    for (int64_t y = 0; y < p.out_height; ++y)
      for (int64_t x = 0; x < p.out_width; ++x) {
        const int64_t y0 = y * p.stride - p.padding, x0 = x * p.stride - p.padding;
        float sum = 0.f;
        for (int64_t i = 0; i < cin; ++i)
          for (int64_t r = std::max<int64_t>(0, -y0); r < std::min(p.kernel_h, p.height - y0); ++r)
            for (int64_t s = std::max<int64_t>(0, -x0); s < std::min(p.kernel_w, p.width - x0); ++s)
              sum += image[i * is[1] + (y0 + r) * is[2] + (x0 + s) * is[3]] *
                     weight[o * ws[0] + i * ws[1] + r * ws[2] + s * ws[3]];
        output[n * os[0] + o * os[1] + y * os[2] + x * os[3]] = sum;
      }
  }
}

void grad_input_plain(const SlicedConv2dParams& p, const float* grad_output, const float* weight, int threads,
                      float* grad_input) {
  const int64_t cin = p.c_in / p.groups, cout = p.c_out / p.groups;
  const int64_t *is = p.input_stride, *ws = p.weight_stride, *os = p.output_stride;
  const int64_t items = p.batch * p.c_in;
  const int team = paying_threads(threads, items, pass_ns(p));
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t item = 0; item < items; ++item) {
    const int64_t n = item / p.c_in, channel = item % p.c_in, i = channel % cin, o0 = channel / cin * cout;
    for (int64_t y = 0; y < p.height; ++y)
      for (int64_t x = 0; x < p.width; ++x) {
        float sum = 0.f;
        for (int64_t o = o0; o < o0 + cout; ++o)
          for (int64_t r = 0; r < p.kernel_h; ++r) {
            const int64_t ys = y + p.padding - r;
            if (ys < 0 || ys % p.stride != 0 || ys / p.stride >= p.out_height) continue;
            for (int64_t s = 0; s < p.kernel_w; ++s) {
              const int64_t xs = x + p.padding - s;
              if (xs < 0 || xs % p.stride != 0 || xs / p.stride >= p.out_width) continue;
              sum += grad_output[n * os[0] + o * os[1] + ys / p.stride * os[2] + xs / p.stride * os[3]] *
                     weight[o * ws[0] + i * ws[1] + r * ws[2] + s * ws[3]];
            }
          }
        grad_input[n * is[0] + channel * is[1] + y * is[2] + x * is[3]] = sum;
      }
  }
}

}  // namespace

int64_t sliced_conv2d_workspace_cpu(const SlicedConv2dParams& p, Pass pass, int threads) {
  if (!validate(p).ok() || threads < 1 || p.batch * p.c_in * p.c_out * p.height * p.width == 0) return 0;
  if (pass != Pass::grad_input && p.out_height * p.out_width == 0) return 0;
  const InputPlanes planes(p);
  int64_t floats = 0;
  if (pass == Pass::forward) {
    floats = threads * forward_bands(p, planes, threads).item_floats;
  } else if (pass == Pass::grad_input) {
    const GradAxis y(p.height, p.kernel_h, p), x(p.width, p.kernel_w, p);
    floats = threads * grad_input_bands(p, y, x, threads).item_floats;
  } else {
    const Blocks blocks(p, planes);
    floats = blocks.images * (blocks.left_image + blocks.plane_image) + blocks.slack + line;
  }
  return taps_bytes(p) + 2 * line * int64_t{sizeof(float)} + floats * int64_t{sizeof(float)};
}

Status sliced_conv2d_forward_cpu(const SlicedConv2dParams& p, const float* input, const float* weight,
                                 void* workspace, int threads, Isa isa, float* output) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if (p.batch * p.c_out * p.out_height * p.out_width == 0) return {};
  if (p.padding > 0 && !finite_weight(p, weight)) {
    forward_plain(p, input, weight, threads, output);
    return {};
  }
  const PlaneKernels& run = kernels[isa];
  const InputPlanes planes(p);
  const Bands bands = forward_bands(p, planes, threads);
  const int64_t cin = p.c_in / p.groups, cout = p.c_out / p.groups;
  const int64_t *is = p.input_stride, *os = p.output_stride;

  auto* shifts = align_line<int64_t>(workspace);
  Taps taps{shifts, shifts + p.kernel_h * p.kernel_w};
  planes.fill_taps(p, bands.rows, taps);
  float* scratch = align_line<float>(shifts + 2 * p.kernel_h * p.kernel_w);
  const int64_t channel_floats = planes.channel_floats(bands.rows);

  const int64_t items = p.batch * p.groups * bands.per_image;
  const int team = paying_threads(threads, items, pass_ns(p));
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t item = 0; item < items; ++item) {
    const int64_t band = item % bands.per_image, g = item / bands.per_image % p.groups;
    const int64_t n = item / bands.per_image / p.groups;
    const int64_t y0 = band * bands.rows, rows = std::min(bands.rows, p.out_height - y0);
    float* own = scratch + thread_number() * bands.item_floats;
    for (int64_t i = 0; i < cin; ++i)
      planes.copy(p, input + n * is[0] + (g * cin + i) * is[1], y0, rows, bands.rows,
                  own + i * channel_floats);
    // What lies behind is read for outputs that are dropped; left as it was it could hold slow denormals.
    std::fill_n(own + cin * channel_floats, correlate_slack, 0.f);
    run.correlate({own, channel_floats, weight + g * cout * p.weight_stride[0], p.weight_stride[0],
                   p.weight_stride[1], taps.plane, taps.weight, cout, cin, taps.count,
                   output + n * os[0] + g * cout * os[1] + y0 * os[2], os[1], os[2], os[3], rows, p.out_width,
                   planes.pitch});
  }
  return {};
}

Status sliced_conv2d_grad_input_cpu(const SlicedConv2dParams& p, const float* grad_output,
                                    const float* weight, void* workspace, int threads, Isa isa,
                                    float* grad_input) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if (p.batch * p.c_in * p.height * p.width == 0) return {};
  if (!finite_weight(p, weight)) {
    grad_input_plain(p, grad_output, weight, threads, grad_input);
    return {};
  }
  const PlaneKernels& run = kernels[isa];
  const GradAxis y(p.height, p.kernel_h, p), x(p.width, p.kernel_w, p);
  const Bands bands = grad_input_bands(p, y, x, threads);
  const int64_t pitch = grad_pitch(x);
  const int64_t cin = p.c_in / p.groups, cout = p.c_out / p.groups;
  const int64_t *is = p.input_stride, *ws = p.weight_stride, *os = p.output_stride;
  const int64_t channel_floats = (bands.rows + y.most_taps - 1) * pitch;

  auto* shifts = align_line<int64_t>(workspace);
  float* scratch = align_line<float>(shifts + 2 * p.kernel_h * p.kernel_w);
  // All taps, phase by phase; phase (a, b) begins where the phases before it end.
  Taps taps{shifts, shifts + p.kernel_h * p.kernel_w};
  for (int64_t a = 0; a < p.stride; ++a)
    for (int64_t b = 0; b < p.stride; ++b)
      for (int64_t t = 0; t < y.taps(a); ++t)
        for (int64_t u = 0; u < x.taps(b); ++u)
          taps.add(-t * pitch - u, (a + p.stride * t) * ws[2] + (b + p.stride * u) * ws[3]);

  const int64_t items = p.batch * p.groups * bands.per_image;
  const int team = paying_threads(threads, items, pass_ns(p));
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t item = 0; item < items; ++item) {
    const int64_t g = item / bands.per_image % p.groups, n = item / bands.per_image / p.groups;
    const int64_t begin = y.low + item % bands.per_image * bands.rows;
    const int64_t end = std::min(begin + bands.rows, y.high + 1);
    float* own = scratch + thread_number() * bands.item_floats;
    for (int64_t o = 0; o < cout; ++o) {
      const float* channel = grad_output + n * os[0] + (g * cout + o) * os[1];
      for (int64_t row = begin - y.most_taps + 1; row < end; ++row) {
        const float* from = row >= 0 && row < p.out_height ? channel + row * os[2] : nullptr;
        float* to = own + o * channel_floats + (row - begin + y.most_taps - 1) * pitch;
        copy_row(to, pitch, from, x.low - x.most_taps + 1, 1, p.out_width, os[3]);
      }
    }
    std::fill_n(own + cout * channel_floats, correlate_slack, 0.f);
    int64_t done = 0;
    for (int64_t a = 0; a < p.stride; ++a)
      for (int64_t b = 0; b < p.stride; ++b) {
        const int64_t count = y.taps(a) * x.taps(b);
        const int64_t row = std::max(begin, y.first(a)), rows = std::min(end - 1, y.last(a)) - row + 1;
        const int64_t col = x.first(b), cols = x.last(b) - col + 1;
        if (rows > 0 && cols > 0)
          run.correlate({own + (row - begin + y.most_taps - 1) * pitch + col - x.low + x.most_taps - 1,
                         channel_floats, weight + g * cout * ws[0], ws[1], ws[0], taps.plane + done,
                         taps.weight + done, cin, cout, count,
                         grad_input + n * is[0] + g * cin * is[1] + (p.stride * row + a - p.padding) * is[2] +
                             (p.stride * col + b - p.padding) * is[3],
                         is[1], p.stride * is[2], p.stride * is[3], rows, cols, pitch});
        done += count;
      }
  }
  return {};
}

Status sliced_conv2d_grad_weight_cpu(const SlicedConv2dParams& p, const float* grad_output,
                                     const float* input, void* workspace, int threads, Isa isa,
                                     float* grad_weight) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  const int64_t cin = p.c_in / p.groups, cout = p.c_out / p.groups;
  const int64_t *is = p.input_stride, *ws = p.weight_stride, *os = p.output_stride;
  if (p.batch * p.c_out * p.out_height * p.out_width == 0) {
    for (int64_t o = 0; o < p.c_out; ++o)
      for (int64_t i = 0; i < cin; ++i)
        for (int64_t r = 0; r < p.kernel_h; ++r)
          for (int64_t s = 0; s < p.kernel_w; ++s)
            grad_weight[o * ws[0] + i * ws[1] + r * ws[2] + s * ws[3]] = 0.f;
    return {};
  }
  const PlaneKernels& run = kernels[isa];
  const InputPlanes planes(p);
  const Blocks blocks(p, planes);
  const int64_t left_channel = blocks.left_channel, plane_channel = planes.channel_floats(p.out_height);
  const int64_t left_filled = p.out_height * planes.pitch;

  auto* shifts = align_line<int64_t>(workspace);
  Taps taps{shifts, shifts + p.kernel_h * p.kernel_w};
  planes.fill_taps(p, p.out_height, taps);
  float* left = align_line<float>(shifts + 2 * p.kernel_h * p.kernel_w);
  float* right = left + round_to(blocks.images * blocks.left_image, line);

  constexpr int64_t piece = 8;  // input channels per item
  const int64_t m_items = divide_up(cout, run.dot_m), c_items = divide_up(cin, piece);
  std::fill_n(right + blocks.images * blocks.plane_image, blocks.slack, 0.f);
  bool row_by_row = false;
  const int team = paying_threads(threads, p.groups * m_items * c_items, pass_ns(p));
#pragma omp parallel num_threads(team)
  for (int64_t n0 = 0; n0 < p.batch; n0 += blocks.images) {
    const int64_t images = std::min(blocks.images, p.batch - n0);
#pragma omp for schedule(static) nowait
    for (int64_t item = 0; item < images * p.c_out; ++item) {
      float* to = left + item * left_channel;
      const float* from = grad_output + (n0 + item / p.c_out) * os[0] + item % p.c_out * os[1];
      for (int64_t row = 0; row < p.out_height; ++row)
        copy_row(to + row * planes.pitch, planes.pitch, from + row * os[2], 0, 1, p.out_width, os[3]);
      std::fill(to + left_filled, to + left_channel, 0.f);
    }
#pragma omp for schedule(static)
    for (int64_t item = 0; item < images * p.c_in; ++item) {
      float* to = right + item * plane_channel;
      planes.copy(p, input + (n0 + item / p.c_in) * is[0] + item % p.c_in * is[1], 0, p.out_height,
                  p.out_height, to);
      if (!finite(to, plane_channel)) {
#pragma omp atomic write
        row_by_row = true;
      }
    }
#pragma omp for schedule(static)
    for (int64_t item = 0; item < p.groups * m_items * c_items; ++item) {
      const int64_t c0 = item % c_items * piece, m0 = item / c_items % m_items * run.dot_m;
      const int64_t g = item / c_items / m_items;
      run.dot({left + (g * cout + m0) * left_channel,
               blocks.left_image,
               left_channel,
               right + (g * cin + c0) * plane_channel,
               blocks.plane_image,
               plane_channel,
               taps.plane,
               taps.weight,
               images,
               std::min<int64_t>(run.dot_m, cout - m0),
               std::min(piece, cin - c0),
               taps.count,
               left_channel,
               p.out_height,
               p.out_width,
               planes.pitch,
               row_by_row,
               grad_weight + (g * cout + m0) * ws[0] + c0 * ws[1],
               ws[0],
               ws[1],
               n0 > 0});
    }
  }
  return {};
}

}  // namespace lasfast
