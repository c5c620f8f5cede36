// A sliced 2-D convolution on CUDA, in fp32 or bf16 with fp32 sums: the forward pass and both gradients, as
// tiled matrix products (tile.cuh) whose operands are read in place through strides.
//
// The weight gradient sums over all output positions of a batch: its k axis is cut into parts that run at
// once and leave partial sums in the workspace; a second kernel adds them in order. How many parts depends on
// sizes alone, so the same inputs give the same bits, on any chip of one kind. Padding enters products as
// zero.

#include "entry.cuh"
#include "lasfast/round.h"
#include "lasfast/sliced_conv2d.h"
#include "tile.cuh"

namespace lasfast {
namespace {

using device::from_float;
using device::to_float;

// k or n as (channel, row, column) of a filter.
struct Kernel {
  int channel, row, col;

  LASFAST_DEVICE Kernel(const SlicedConv2dParams& p, int k) {
    const int kw = static_cast<int>(p.kernel_w), kh = static_cast<int>(p.kernel_h);
    col = k % kw;
    row = k / kw % kh;
    channel = k / kw / kh;
  }
};

// k or n as (image, y, x) of an image plane.
struct Position {
  int64_t image;
  int y, x;

  LASFAST_DEVICE Position(int64_t height, int64_t width, int at) {
    const int w = static_cast<int>(width), h = static_cast<int>(height);
    x = at % w;
    y = at / w % h;
    image = at / w / h;
  }
  // Returns elements from the beginning of a tensor with these strides.
  LASFAST_DEVICE int64_t offset(const int64_t (&stride)[4], int64_t channel) const {
    return image * stride[0] + channel * stride[1] + y * stride[2] + x * stride[3];
  }
};

// Parts are groups. m: output channel of the group; k: (input channel, row, column); n: (image, y, x) of the
// output.
template <typename T>
struct Forward {
  SlicedConv2dParams p;
  const T* input;
  const T* weight;
  T* output;
  int m, n, k;
  int64_t parts;

  struct Column {
    const T* image;
    int y, x;
  };

  LASFAST_DEVICE int k_begin(int64_t) const { return 0; }
  LASFAST_DEVICE int k_end(int64_t) const { return k; }
  LASFAST_DEVICE Column column(int64_t g, int at) const {
    const Position at_output(p.out_height, p.out_width, at);
    return {input + at_output.image * p.input_stride[0] + g * (p.c_in / p.groups) * p.input_stride[1],
            static_cast<int>(at_output.y * p.stride - p.padding),
            static_cast<int>(at_output.x * p.stride - p.padding)};
  }
  LASFAST_DEVICE float a(int64_t g, int row, int at) const {
    const Kernel tap(p, at);
    return to_float(weight[(g * m + row) * p.weight_stride[0] + tap.channel * p.weight_stride[1] +
                           tap.row * p.weight_stride[2] + tap.col * p.weight_stride[3]]);
  }
  LASFAST_DEVICE float b(int64_t, const Column& c, int at) const {
    const Kernel tap(p, at);
    const int y = c.y + tap.row, x = c.x + tap.col;
    if (y < 0 || y >= p.height || x < 0 || x >= p.width) return 0.f;
    return to_float(c.image[tap.channel * p.input_stride[1] + y * p.input_stride[2] + x * p.input_stride[3]]);
  }
  LASFAST_DEVICE void store(int64_t g, int row, int at, float value) const {
    const Position at_output(p.out_height, p.out_width, at);
    output[at_output.offset(p.output_stride, g * m + row)] = from_float<T>(value);
  }
};

// Parts are groups. m: input channel of the group; k: (output channel, row, column); n: (image, y, x) of the
// input.
template <typename T>
struct GradInput {
  SlicedConv2dParams p;
  const T* grad_output;
  const T* weight;
  T* grad_input;
  int m, n, k;
  int64_t parts;

  struct Column {
    const T* image;
    int y, x;
  };

  LASFAST_DEVICE int k_begin(int64_t) const { return 0; }
  LASFAST_DEVICE int k_end(int64_t) const { return k; }
  LASFAST_DEVICE Column column(int64_t g, int at) const {
    const Position at_input(p.height, p.width, at);
    return {grad_output + at_input.image * p.output_stride[0] + g * (p.c_out / p.groups) * p.output_stride[1],
            static_cast<int>(at_input.y + p.padding), static_cast<int>(at_input.x + p.padding)};
  }
  LASFAST_DEVICE float a(int64_t g, int row, int at) const {
    const Kernel tap(p, at);
    return to_float(
        weight[(g * (p.c_out / p.groups) + tap.channel) * p.weight_stride[0] + row * p.weight_stride[1] +
               tap.row * p.weight_stride[2] + tap.col * p.weight_stride[3]]);
  }
  LASFAST_DEVICE float b(int64_t, const Column& c, int at) const {
    const Kernel tap(p, at);
    const int s = static_cast<int>(p.stride);
    const int y = c.y - tap.row, x = c.x - tap.col;
    if (y < 0 || x < 0 || y % s != 0 || x % s != 0 || y / s >= p.out_height || x / s >= p.out_width)
      return 0.f;
    return to_float(
        c.image[tap.channel * p.output_stride[1] + y / s * p.output_stride[2] + x / s * p.output_stride[3]]);
  }
  LASFAST_DEVICE void store(int64_t g, int row, int at, float value) const {
    const Position at_input(p.height, p.width, at);
    grad_input[at_input.offset(p.input_stride, g * m + row)] = from_float<T>(value);
  }
};

// Parts are (range of k, group). m: output channel of the group; n: (input channel, row, column); k: (image,
// y, x).
template <typename T>
struct GradWeight {
  SlicedConv2dParams p;
  const T* grad_output;
  const T* input;
  float* partial;  // [ranges, groups, m, n]
  T* grad_weight;
  int m, n, k, ranges, range;  // range: length of one, in k
  int64_t parts;

  struct Column {
    const T* channel;
    int row, col;
  };

  LASFAST_DEVICE int k_begin(int64_t part) const { return static_cast<int>(part / p.groups) * range; }
  LASFAST_DEVICE int k_end(int64_t part) const {
    const int end = k_begin(part) + range;
    return end < k ? end : k;
  }
  LASFAST_DEVICE Column column(int64_t part, int at) const {
    const Kernel tap(p, at);
    const int64_t g = part % p.groups;
    return {input + (g * (p.c_in / p.groups) + tap.channel) * p.input_stride[1],
            tap.row - static_cast<int>(p.padding), tap.col - static_cast<int>(p.padding)};
  }
  LASFAST_DEVICE float a(int64_t part, int row, int at) const {
    const Position at_output(p.out_height, p.out_width, at);
    return to_float(grad_output[at_output.offset(p.output_stride, part % p.groups * m + row)]);
  }
  LASFAST_DEVICE float b(int64_t, const Column& c, int at) const {
    const Position at_output(p.out_height, p.out_width, at);
    const int s = static_cast<int>(p.stride);
    const int y = at_output.y * s + c.row, x = at_output.x * s + c.col;
    if (y < 0 || y >= p.height || x < 0 || x >= p.width) return 0.f;
    return to_float(
        c.channel[at_output.image * p.input_stride[0] + y * p.input_stride[2] + x * p.input_stride[3]]);
  }
  LASFAST_DEVICE void store(int64_t part, int row, int at, float value) const {
    partial[(part * m + row) * n + at] = value;
  }
};

// Each thread adds the partial sums of one element of the slice, first range first.
template <typename T>
LASFAST_KERNEL(tile_threads, 1)
add_ranges(const GradWeight<T> problem) {
  const SlicedConv2dParams& p = problem.p;
  const int64_t size = p.groups * problem.m * problem.n;
  const int64_t at = device::block_index() * tile_threads + device::thread_index();
  if (at >= size) return;
  float sum = 0.f;
  for (int64_t r = 0; r < problem.ranges; ++r) sum += problem.partial[r * size + at];
  const Kernel tap(p, static_cast<int>(at % problem.n));
  problem.grad_weight[at / problem.n * p.weight_stride[0] + tap.channel * p.weight_stride[1] +
                      tap.row * p.weight_stride[2] + tap.col * p.weight_stride[3]] = from_float<T>(sum);
}

// Returns enough ranges to fill a large chip, each long enough to be worth a partial sum.
int grad_weight_ranges(const SlicedConv2dParams& p) {
  const int64_t m = p.c_out / p.groups, n = p.c_in / p.groups * p.kernel_h * p.kernel_w;
  const int64_t k = p.batch * p.out_height * p.out_width;
  const int64_t tiles = divide_up(m, 64) * divide_up(n, 64) * p.groups;
  const int64_t wanted = tiles > 0 ? 512 / tiles : 1, worth = k / 256;
  const int64_t ranges = wanted < worth ? wanted : worth;
  return static_cast<int>(ranges < 1 ? 1 : ranges);
}

Status check(const SlicedConv2dParams& p) {
  if (const Status status = validate(p); !status.ok()) return status;
  const int64_t taps = p.kernel_h * p.kernel_w;
  if (p.batch * p.height * p.width > max_index || p.batch * p.out_height * p.out_width > max_index ||
      p.c_in * taps > max_index || p.c_out * taps > max_index || p.height + 2 * p.padding > max_index ||
      p.width + 2 * p.padding > max_index)
    return unsupported("more than 2^31 positions or filter elements in one call");
  return {};
}

template <typename T>
int forward(const SlicedConv2dParams& p, const void* input, const void* weight, device::Stream stream,
            void* output) {
  Forward<T> problem{p,
                     static_cast<const T*>(input),
                     static_cast<const T*>(weight),
                     static_cast<T*>(output),
                     static_cast<int>(p.c_out / p.groups),
                     static_cast<int>(p.batch * p.out_height * p.out_width),
                     static_cast<int>(p.c_in / p.groups * p.kernel_h * p.kernel_w),
                     p.groups};
  return launch_product(problem, stream);
}

template <typename T>
int grad_input_of(const SlicedConv2dParams& p, const void* grad_output, const void* weight,
                  device::Stream stream, void* grad_input) {
  GradInput<T> problem{p,
                       static_cast<const T*>(grad_output),
                       static_cast<const T*>(weight),
                       static_cast<T*>(grad_input),
                       static_cast<int>(p.c_in / p.groups),
                       static_cast<int>(p.batch * p.height * p.width),
                       static_cast<int>(p.c_out / p.groups * p.kernel_h * p.kernel_w),
                       p.groups};
  return launch_product(problem, stream);
}

template <typename T>
int grad_weight_of(const SlicedConv2dParams& p, const void* grad_output, const void* input, void* workspace,
                   device::Stream stream, void* grad_weight) {
  const int ranges = grad_weight_ranges(p);
  const int64_t k = p.batch * p.out_height * p.out_width;
  GradWeight<T> problem{p,
                        static_cast<const T*>(grad_output),
                        static_cast<const T*>(input),
                        static_cast<float*>(workspace),
                        static_cast<T*>(grad_weight),
                        static_cast<int>(p.c_out / p.groups),
                        static_cast<int>(p.c_in / p.groups * p.kernel_h * p.kernel_w),
                        static_cast<int>(k),
                        ranges,
                        static_cast<int>(divide_up(k, ranges)),
                        p.groups * ranges};
  if (const int error = launch_product(problem, stream); error != 0) return error;
  const int64_t size = p.groups * problem.m * problem.n;
  return device::launch(add_ranges<T>, divide_up(size, tile_threads), tile_threads, 0, stream, problem);
}

}  // namespace

int64_t sliced_conv2d_workspace_cuda(const SlicedConv2dParams& p, Pass pass) {
  if (!validate(p).ok() || pass != Pass::grad_weight) return 0;
  return grad_weight_ranges(p) * p.c_out * (p.c_in / p.groups) * p.kernel_h * p.kernel_w *
         int64_t{sizeof(float)};
}

Status sliced_conv2d_forward_cuda(const SlicedConv2dParams& p, Dtype dtype, const void* input,
                                  const void* weight, void*, int device, void* stream, void* output) {
  if (const Status status = check(p); !status.ok()) return status;
  if (p.batch * p.c_out * p.out_height * p.out_width == 0) return {};
  return on_device(device, stream, [&](device::Stream queue) {
    return dtype == Dtype::float32 ? forward<float>(p, input, weight, queue, output)
                                   : forward<device::bfloat16>(p, input, weight, queue, output);
  });
}

Status sliced_conv2d_grad_input_cuda(const SlicedConv2dParams& p, Dtype dtype, const void* grad_output,
                                     const void* weight, void*, int device, void* stream, void* grad_input) {
  if (const Status status = check(p); !status.ok()) return status;
  if (p.batch * p.c_in * p.height * p.width == 0) return {};
  return on_device(device, stream, [&](device::Stream queue) {
    return dtype == Dtype::float32
               ? grad_input_of<float>(p, grad_output, weight, queue, grad_input)
               : grad_input_of<device::bfloat16>(p, grad_output, weight, queue, grad_input);
  });
}

Status sliced_conv2d_grad_weight_cuda(const SlicedConv2dParams& p, Dtype dtype, const void* grad_output,
                                      const void* input, void* workspace, int device, void* stream,
                                      void* grad_weight) {
  if (const Status status = check(p); !status.ok()) return status;
  if (p.c_out * p.c_in == 0) return {};
  return on_device(device, stream, [&](device::Stream queue) {
    return dtype == Dtype::float32
               ? grad_weight_of<float>(p, grad_output, input, workspace, queue, grad_weight)
               : grad_weight_of<device::bfloat16>(p, grad_output, input, workspace, queue, grad_weight);
  });
}

}  // namespace lasfast
