// The passes of training: convolutions, depthwise and grouped ones, batch norm with its activation.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "compare.h"
#include "lasfast/bn_act.h"
#include "lasfast/conv2d_nhwc.h"
#include "lasfast/depthwise_nhwc.h"
#include "lasfast/grouped_nhwc.h"
#include "lasfast/sliced_conv2d.h"

namespace compare {
namespace {

using namespace lasfast;

constexpr Dtype fp32 = Dtype::float32, bf16 = Dtype::bfloat16;
constexpr Pass passes[] = {Pass::forward, Pass::grad_input, Pass::grad_weight};
const char* const pass_names[] = {"forward", "grad_input", "grad_weight"};

// What is computed is a slice of a weight that is wider by so many channels on either side.
constexpr int64_t wider = 3;

int64_t out_size(int64_t size, int64_t kernel, int64_t stride, int64_t padding) {
  return (size + 2 * padding - kernel) / stride + 1;
}

// fp32 sums in another order differ by less; bf16 results, by some that are rounded the other way.
double tolerance(Dtype dtype) { return dtype == fp32 ? 1e-5 : 2e-3; }

Tensor workspace(int64_t bytes) { return Tensor((bytes + 3) / 4, fp32, 0x7f); }

// ---- sliced_conv2d: NCHW or channels_last, any groups, fp32

struct Sliced {
  int64_t batch, c_in, height, width, c_out, kernel_h, kernel_w, stride, padding, groups;
  bool channels_last, infinite;
};

void set_strides(int64_t (&stride)[4], int64_t channels, int64_t height, int64_t width, bool channels_last) {
  const int64_t dense[4] = {channels * height * width, channels_last ? 1 : height * width,
                            channels_last ? width * channels : width, channels_last ? channels : 1};
  std::copy(dense, dense + 4, stride);
}

void compare_sliced(const Sliced& c) {
  SlicedConv2dParams p{};
  p.batch = c.batch, p.c_in = c.c_in, p.height = c.height, p.width = c.width, p.c_out = c.c_out;
  p.out_height = out_size(c.height, c.kernel_h, c.stride, c.padding);
  p.out_width = out_size(c.width, c.kernel_w, c.stride, c.padding);
  p.kernel_h = c.kernel_h, p.kernel_w = c.kernel_w, p.stride = c.stride, p.padding = c.padding;
  p.groups = c.groups;
  set_strides(p.input_stride, c.c_in, c.height, c.width, c.channels_last);
  set_strides(p.output_stride, c.c_out, p.out_height, p.out_width, c.channels_last);
  set_strides(p.weight_stride, c.c_in / c.groups + wider, c.kernel_h, c.kernel_w, false);

  const int64_t inputs = c.batch * c.c_in * c.height * c.width;
  const int64_t outputs = c.batch * c.c_out * p.out_height * p.out_width;
  const int64_t weights = (c.c_out + wider) * p.weight_stride[0];
  const Tensor input = random(inputs, fp32, 1), weight = random(weights, fp32, 2);
  const Tensor grad = random(outputs, fp32, 3);
  if (c.infinite) input.set(inputs / 2, INFINITY);
  for (const Pass pass : passes) {
    check(std::string("sliced_conv2d ") + pass_names[static_cast<int>(pass)] + ", " + std::to_string(c.c_in) +
              " to " + std::to_string(c.c_out),
          tolerance(fp32), [&](Isa isa, int threads, unsigned char fill) -> Results {
            const Tensor scratch = workspace(sliced_conv2d_workspace_cpu(p, pass, threads));
            if (pass == Pass::forward) {
              Tensor output(outputs, fp32, fill);
              must(sliced_conv2d_forward_cpu(p, input.floats(), weight.floats(), scratch.data(), threads, isa,
                                             output.floats()));
              return {output};
            }
            if (pass == Pass::grad_input) {
              Tensor result(inputs, fp32, fill);
              must(sliced_conv2d_grad_input_cpu(p, grad.floats(), weight.floats(), scratch.data(), threads,
                                                isa, result.floats()));
              return {result};
            }
            const Tensor result(weights, fp32, 0x3f);  // what is beyond the slice stays so
            must(sliced_conv2d_grad_weight_cpu(p, grad.floats(), input.floats(), scratch.data(), threads, isa,
                                               result.floats()));
            return {result};
          });
  }
}

// ---- conv2d_nhwc

struct Dense {
  int64_t batch, c_in, height, width, c_out, kernel, stride, padding, tile;
};

void compare_dense(const Dense& c, Dtype storage, Dtype weight_dtype) {
  Conv2dNhwcParams p{};
  p.batch = c.batch, p.c_in = c.c_in, p.height = c.height, p.width = c.width, p.c_out = c.c_out;
  p.out_height = out_size(c.height, c.kernel, c.stride, c.padding);
  p.out_width = out_size(c.width, c.kernel, c.stride, c.padding);
  p.kernel = c.kernel, p.stride = c.stride, p.padding = c.padding;
  set_strides(p.weight_stride, c.c_in + wider, c.kernel, c.kernel, false);
  p.tile = c.tile;
  const int64_t inputs = c.batch * c.height * c.width * c.c_in;
  const int64_t outputs = c.batch * p.out_height * p.out_width * c.c_out;
  const int64_t weights = (c.c_out + wider) * p.weight_stride[0];

  // The generic kernels compute in fp32 alone: of bf16 values, they are given the same as fp32.
  const auto run_on = [&, p](Dtype dtype, Dtype of_weight, Pass pass) -> Run {
    return [=](Isa isa, int threads, unsigned char fill) mutable -> Results {
      p.storage = dtype;
      p.weight = of_weight;
      const Tensor scratch = workspace(conv2d_nhwc_workspace_cpu(p, pass, threads, isa));
      const Tensor input = random(inputs, dtype, 1), weight = random(weights, of_weight, 2);
      const Tensor grad = random(outputs, dtype, 3);
      if (pass == Pass::forward) {
        Tensor output(outputs, dtype, fill), mean(c.c_out, fp32, fill), variance(c.c_out, fp32, fill);
        must(conv2d_nhwc_forward_cpu(p, input.data(), weight.data(), scratch.data(), threads, isa,
                                     output.data(), mean.floats(), variance.floats()));
        return {output, mean, variance};
      }
      if (pass == Pass::grad_input) {
        Tensor result(inputs, dtype, fill);
        must(conv2d_nhwc_grad_input_cpu(p, grad.data(), weight.data(), scratch.data(), threads, isa,
                                        result.data()));
        return {result};
      }
      const Tensor result(weights, fp32, 0x3f);
      must(conv2d_nhwc_grad_weight_cpu(p, grad.data(), input.data(), scratch.data(), threads, isa,
                                       result.floats()));
      return {result};
    };
  };
  for (const Pass pass : passes)
    check(std::string("conv2d_nhwc ") + pass_names[static_cast<int>(pass)] + ", " + std::to_string(c.c_in) +
              " to " + std::to_string(c.c_out) + ", kernel " + std::to_string(c.kernel) + ", tile " +
              std::to_string(c.tile) + (storage == bf16 ? ", bf16" : ""),
          tolerance(storage), run_on(storage, weight_dtype, pass), run_on(fp32, fp32, pass));
}

// ---- depthwise_nhwc

struct Depthwise {
  int64_t batch, channels, height, width, kernel, stride, padding;
};

void compare_depthwise(const Depthwise& c, Dtype dtype) {
  DepthwiseNhwcParams p{};
  p.batch = c.batch, p.channels = c.channels, p.height = c.height, p.width = c.width;
  p.out_height = out_size(c.height, c.kernel, c.stride, c.padding);
  p.out_width = out_size(c.width, c.kernel, c.stride, c.padding);
  p.kernel = c.kernel, p.stride = c.stride, p.padding = c.padding;
  const int64_t side = c.kernel + 1;  // the weight is a slice in all dimensions
  p.weight_stride[0] = side * side, p.weight_stride[1] = side, p.weight_stride[2] = 1;
  p.weight_dtype = p.storage = dtype;
  const int64_t inputs = c.batch * c.height * c.width * c.channels;
  const int64_t outputs = c.batch * p.out_height * p.out_width * c.channels;
  const int64_t weights = (c.channels + wider) * p.weight_stride[0];
  const Tensor input = random(inputs, dtype, 1), weight = random(weights, dtype, 2);
  const Tensor grad = random(outputs, dtype, 3);
  const std::string what = std::to_string(c.channels) + " channels, kernel " + std::to_string(c.kernel) +
                           ", stride " + std::to_string(c.stride) + (dtype == bf16 ? ", bf16" : "");
  check("depthwise_nhwc forward, " + what, tolerance(dtype),
        [&](Isa isa, int threads, unsigned char fill) -> Results {
          const Tensor scratch = workspace(depthwise_nhwc_workspace_cpu(p, Pass::forward, isa));
          Tensor output(outputs, dtype, fill), mean(c.channels, fp32, fill), variance(c.channels, fp32, fill);
          must(depthwise_nhwc_forward_cpu(p, input.data(), weight.data(), scratch.data(), threads, isa,
                                          output.data(), mean.floats(), variance.floats()));
          return {output, mean, variance};
        });
  check("depthwise_nhwc backward, " + what, tolerance(dtype),
        [&](Isa isa, int threads, unsigned char fill) -> Results {
          const Tensor scratch = workspace(depthwise_nhwc_workspace_cpu(p, Pass::grad_input, isa) +
                                           depthwise_nhwc_workspace_cpu(p, Pass::grad_weight, isa));
          Tensor grad_input(inputs, dtype, fill), grad_weight(weights, fp32, 0x3f);
          must(depthwise_nhwc_backward_cpu(p, grad.data(), input.data(), weight.data(), p.weight_stride,
                                           scratch.data(), threads, isa, grad_input.data(),
                                           grad_weight.floats()));
          return {grad_input, grad_weight};
        });
}

// ---- grouped_nhwc

struct Grouped {
  int64_t batch, groups, reads, gives, height, width, kernel, stride, padding;
};

void compare_grouped(const Grouped& c, Dtype dtype) {
  GroupedNhwcParams p{};
  p.batch = c.batch, p.groups = c.groups, p.height = c.height, p.width = c.width;
  p.c_in = c.groups * c.reads, p.c_out = c.groups * c.gives;
  p.out_height = out_size(c.height, c.kernel, c.stride, c.padding);
  p.out_width = out_size(c.width, c.kernel, c.stride, c.padding);
  p.kernel = c.kernel, p.stride = c.stride, p.padding = c.padding;
  set_strides(p.weight_stride, c.reads + wider, c.kernel, c.kernel, false);
  p.weight_dtype = p.storage = dtype;
  const int64_t inputs = c.batch * c.height * c.width * p.c_in;
  const int64_t outputs = c.batch * p.out_height * p.out_width * p.c_out;
  const int64_t weights = (p.c_out + wider) * p.weight_stride[0];
  const Tensor input = random(inputs, dtype, 1), weight = random(weights, dtype, 2);
  const Tensor grad = random(outputs, dtype, 3);
  const std::string what = std::to_string(c.groups) + " groups, " + std::to_string(c.reads) + " to " +
                           std::to_string(c.gives) + ", kernel " + std::to_string(c.kernel) + ", stride " +
                           std::to_string(c.stride) + (dtype == bf16 ? ", bf16" : "");
  const auto scratch_of = [p](Pass pass, Isa isa, int threads) {
    return workspace(grouped_nhwc_workspace_cpu(p, pass, threads, isa));
  };
  check("grouped_nhwc forward, " + what, tolerance(dtype),
        [&](Isa isa, int threads, unsigned char fill) -> Results {
          const Tensor scratch = scratch_of(Pass::forward, isa, threads);
          Tensor output(outputs, dtype, fill), mean(p.c_out, fp32, fill), variance(p.c_out, fp32, fill);
          must(grouped_nhwc_forward_cpu(p, input.data(), weight.data(), scratch.data(), threads, isa,
                                        output.data(), mean.floats(), variance.floats()));
          return {output, mean, variance};
        });
  check("grouped_nhwc gradients, " + what, tolerance(dtype),
        [&](Isa isa, int threads, unsigned char fill) -> Results {
          Tensor grad_input(inputs, dtype, fill), grad_weight(weights, fp32, 0x3f);
          const Tensor of_input = scratch_of(Pass::grad_input, isa, threads);
          must(grouped_nhwc_grad_input_cpu(p, grad.data(), weight.data(), of_input.data(), threads, isa,
                                           grad_input.data()));
          const Tensor of_weight = scratch_of(Pass::grad_weight, isa, threads);
          must(grouped_nhwc_grad_weight_cpu(p, grad.data(), input.data(), of_weight.data(), threads, isa,
                                            grad_weight.floats()));
          return {grad_input, grad_weight};
        });
}

// ---- bn_act

void compare_bn_act(int64_t channels, int64_t residual_channels, Activation activation, Dtype dtype) {
  BnActParams p{};
  p.rows = 37;
  p.channels = channels;
  p.residual_channels = residual_channels;
  p.storage = dtype;
  p.activation = activation;
  p.eps = 1e-5f;
  const int64_t values = p.rows * channels, residuals = p.rows * residual_channels;
  const Tensor x = random(values, dtype, 1), grad = random(values, dtype, 2);
  const Tensor residual = random(residuals, dtype, 3);
  const Tensor weight = random(channels, fp32, 4), bias = random(channels, fp32, 5);
  const Tensor mean = random(channels, fp32, 6), var(channels, fp32, 0);
  for (int64_t c = 0; c < channels; ++c) var.set(c, 0.015625f * static_cast<float>(1 + c % 3));
  const void* const other = residual_channels ? residual.data() : nullptr;
  const std::string what = "bn_act " + std::to_string(static_cast<int>(activation)) + ", " +
                           std::to_string(channels) + " channels, residual " +
                           std::to_string(residual_channels) + (dtype == bf16 ? ", bf16" : "");
  check(what, tolerance(dtype), [&](Isa isa, int threads, unsigned char fill) -> Results {
    const Tensor scratch = workspace(bn_act_workspace_cpu(p, threads));
    Tensor means(channels, fp32, fill), vars(channels, fp32, fill), y(values, dtype, fill);
    Results results = {means, vars, y};
    must(batch_statistics_cpu(p, x.data(), scratch.data(), threads, isa, means.floats(), vars.floats()));
    must(bn_act_forward_cpu(p, x.data(), mean.floats(), var.floats(), weight.floats(), bias.floats(), other,
                            scratch.data(), threads, isa, y.data()));
    for (const bool batch_statistics : {false, true}) {
      p.batch_statistics = batch_statistics;
      const Tensor grad_x(values, dtype, fill), grad_weight(channels, fp32, fill);
      const Tensor grad_bias(channels, fp32, fill), grad_residual(residuals, dtype, fill);
      must(bn_act_backward_cpu(p, grad.data(), x.data(), mean.floats(), var.floats(), weight.floats(),
                               bias.floats(), other, scratch.data(), threads, isa, grad_x.data(),
                               grad_weight.floats(), grad_bias.floats(),
                               other ? grad_residual.data() : nullptr));
      results.insert(results.end(), {grad_x, grad_weight, grad_bias, grad_residual});
    }
    return results;
  });
}

// Values at the borders of activations and of fp32, one by one: each result is its own tensor.
void compare_borders(Activation activation, Dtype dtype) {
  constexpr float infinity = std::numeric_limits<float>::infinity();
  const float borders[] = {0.f,        -0.f,     3.f,    -3.f,   6.f,       6.125f, 2.984375f,
                           -2.984375f, infinity, 1e30f,  -1e30f, -infinity, 88.f,   -88.f,
                           100.f,      -100.f,   1e-30f, 0.5f,   0x1p-126f, NAN};
  for (const float border : borders) {
    BnActParams p{};
    p.rows = 1, p.channels = 1, p.storage = dtype, p.activation = activation;
    const Tensor x(1, dtype, 0), grad = random(1, dtype, 2), mean(1, fp32, 0), var(1, fp32, 0);
    x.set(0, border);
    var.set(0, 1.f);
    check("bn_act " + std::to_string(static_cast<int>(activation)) + " of " + std::to_string(border),
          tolerance(dtype), [&](Isa isa, int threads, unsigned char fill) -> Results {
            const Tensor scratch = workspace(bn_act_workspace_cpu(p, threads));
            const Tensor y(1, dtype, fill), grad_x(1, dtype, fill);
            must(bn_act_forward_cpu(p, x.data(), mean.floats(), var.floats(), nullptr, nullptr, nullptr,
                                    scratch.data(), threads, isa, y.data()));
            must(bn_act_backward_cpu(p, grad.data(), x.data(), mean.floats(), var.floats(), nullptr, nullptr,
                                     nullptr, scratch.data(), threads, isa, grad_x.data(), nullptr, nullptr,
                                     nullptr));
            return {y, grad_x};
          });
  }
}

// Products of two bf16 values are exact in fp32, and many lie just between two bf16 values.
void compare_rounding() {
  constexpr int64_t rows = 67, channels = 7;
  BnActParams p{};
  p.rows = rows, p.channels = channels, p.storage = bf16;
  const Tensor x = random(rows * channels, bf16, 1), weight = random(channels, fp32, 2);
  const Tensor mean(channels, fp32, 0), var(channels, fp32, 0);
  for (int64_t c = 0; c < channels; ++c) var.set(c, 1.f);
  x.set(10, NAN), x.set(20, INFINITY), x.set(30, -INFINITY);
  const Tensor bias(channels, fp32, 0);
  std::memset(bias.floats() + 3, 0xff, sizeof(float));  // a NaN that rounding as a number would make zero
  check("bn_act, rounding", 0, [&](Isa isa, int threads, unsigned char fill) -> Results {
    const Tensor scratch = workspace(bn_act_workspace_cpu(p, threads)), y(rows * channels, bf16, fill);
    must(bn_act_forward_cpu(p, x.data(), mean.floats(), var.floats(), weight.floats(), bias.floats(), nullptr,
                            scratch.data(), threads, isa, y.data()));
    return {y};
  });
}

}  // namespace

void compare_passes() {
  for (const Sliced& c :
       {Sliced{3, 5, 9, 11, 7, 3, 3, 1, 1, 1, false, false},
        Sliced{2, 6, 8, 8, 4, 5, 3, 2, 2, 2, false, false}, Sliced{2, 3, 7, 7, 1, 1, 1, 1, 0, 1, true, false},
        Sliced{2, 8, 13, 6, 12, 3, 3, 3, 0, 4, true, false},
        Sliced{2, 4, 9, 9, 18, 3, 3, 1, 1, 1, false, true},
        Sliced{1, 7, 20, 19, 3, 3, 3, 2, 1, 1, true, false}})
    compare_sliced(c);

  constexpr Dense dense[] = {
      {2, 3, 9, 7, 5, 3, 1, 1, 0},  {1, 16, 8, 8, 24, 3, 1, 1, 0}, {3, 13, 10, 9, 21, 3, 2, 1, 0},
      {5, 8, 4, 4, 12, 1, 1, 0, 0}, {2, 6, 7, 7, 9, 1, 2, 0, 0},   {2, 5, 11, 11, 4, 5, 1, 2, 0},
      {1, 4, 9, 9, 3, 7, 3, 3, 0},  {2, 33, 6, 5, 40, 3, 1, 1, 0}, {9, 18, 1, 1, 34, 1, 1, 0, 0}};
  for (const Dense& c : dense) {
    compare_dense(c, fp32, fp32);
    if (!multiplies_bf16(isa)) continue;
    compare_dense(c, bf16, fp32);
    compare_dense(c, bf16, bf16);
  }
  for (const Dense& c : {Dense{2, 7, 9, 8, 10, 3, 1, 1, 2}, Dense{2, 16, 10, 12, 20, 3, 1, 1, 4},
                         Dense{1, 5, 6, 6, 3, 3, 1, 0, 4}, Dense{1, 5, 6, 7, 3, 3, 1, 2, 2}})
    compare_dense(c, fp32, fp32);

  constexpr Depthwise depthwise[] = {
      {2, 13, 9, 11, 3, 1, 1}, {2, 4, 14, 10, 3, 2, 1},  {1, 5, 12, 12, 5, 1, 2}, {1, 16, 11, 21, 5, 2, 2},
      {1, 7, 12, 13, 7, 1, 3}, {1, 33, 13, 12, 7, 2, 3}, {2, 3, 8, 9, 3, 1, 1},   {1, 6, 9, 9, 4, 1, 1},
      {1, 6, 10, 10, 3, 3, 0}, {1, 9, 6, 17, 2, 1, 0},   {1, 8, 5, 5, 1, 1, 0}};
  for (const Dtype dtype : {fp32, bf16})
    for (const Depthwise& c : depthwise) compare_depthwise(c, dtype);

  constexpr Grouped grouped[] = {{2, 5, 4, 4, 9, 11, 3, 1, 1},   {5, 3, 8, 8, 4, 4, 3, 1, 1},
                                 {9, 7, 8, 8, 2, 2, 3, 1, 1},    {2, 3, 2, 2, 10, 12, 3, 2, 1},
                                 {1, 2, 16, 16, 8, 9, 3, 2, 1},  {2, 3, 6, 10, 7, 5, 3, 1, 0},
                                 {1, 2, 24, 20, 5, 19, 1, 1, 0}, {2, 4, 4, 4, 11, 11, 5, 3, 2}};
  for (const Dtype dtype : {fp32, bf16})
    for (const Grouped& c : grouped) compare_grouped(c, dtype);

  constexpr int64_t widths[][2] = {{1, 0}, {3, 3}, {4, 0}, {7, 5}, {12, 12}, {24, 1}, {64, 0}, {130, 129}};
  for (const Dtype dtype : {fp32, bf16})
    for (int activation = 0; activation < activation_count; ++activation) {
      for (int k = 0; k < 8; k += 2) {
        const auto& width = widths[(k + activation) % 8];
        compare_bn_act(width[0], width[1], static_cast<Activation>(activation), dtype);
      }
      compare_borders(static_cast<Activation>(activation), dtype);
    }
  compare_rounding();
}

}  // namespace compare
