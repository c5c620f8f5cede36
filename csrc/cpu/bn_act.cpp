// The passes of bn_act.h on the CPU: blocks of rows, shared by the threads.
//
// A thread goes through its blocks in order in one pass and backwards in the next, which so begins with what
// is still in the thread's cache. Where the residual has fewer channels than x, it is widened a piece at a
// time, in cache, so that the kernels know one shape only.

#include "lasfast/bn_act.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "bn_act_kernels.h"
#include "dispatch.h"
#include "lasfast/round.h"
#include "scratch.h"
#include "threads.h"

namespace lasfast {
namespace {

constexpr int64_t widest_vector = 16;
constexpr int64_t least_width = 64;         // of wide rows: sums of a few vectors are under way at once
constexpr int64_t block_values = 32 << 10;  // at least, of all but the last block
constexpr int64_t most_blocks = 256;
constexpr int64_t piece_values = 8 << 10;  // of a residual that is widened

constexpr KernelTables<BnActKernels> kernels = {
    {LASFAST_GENERIC(bn_act_kernels), LASFAST_AVX2(bn_act_kernels), LASFAST_AVX512(bn_act_kernels),
     LASFAST_AVX512_BF16(bn_act_kernels), nullptr, LASFAST_NEON(bn_act_kernels),
     LASFAST_NEON_BF16(bn_act_kernels)}};

// The least multiple of both a row and a vector that is long enough; longest for the widest vector.
int64_t wide_row(int64_t channels, int64_t vector) {
  return round_to(least_width, std::lcm(channels, vector));
}

int64_t block_count(const BnActParams& p) {
  return std::clamp<int64_t>(p.rows * p.channels / block_values, 1, most_blocks);
}

// Says how the values are cut into blocks of wide rows. The last block also has what is left of a wide row.
struct Blocks {
  int64_t channels, width, tail, block, count, last;  // block, last: wide rows of each block, and of the last

  Blocks(const BnActParams& p, int64_t vector) : channels(p.channels), width(wide_row(p.channels, vector)) {
    const int64_t wide_rows = p.rows * channels / width;
    tail = p.rows * channels % width;
    block = std::max<int64_t>(1, divide_up(wide_rows, block_count(p)));
    count = std::max<int64_t>(1, divide_up(wide_rows, block));
    last = wide_rows - (count - 1) * block;
  }
  int64_t wide_rows(int64_t i) const { return i + 1 < count ? block : last; }
  int64_t tail_of(int64_t i) const { return i + 1 < count ? 0 : tail; }
  int64_t rows(int64_t i) const { return (wide_rows(i) * width + tail_of(i)) / channels; }
};

struct Workspace {
  int64_t thread_floats, widened_bytes;
  double* partial;  // [blocks, 2, channels]
  double* total;    // [2 * channels + 1]: sums of all blocks, and rows
  float* channels;  // [5, width]
  float* sums;      // of each thread: [3, width]
  char* widened;    // of each thread: two pieces
  uintptr_t end;

  Workspace(const BnActParams& p, int64_t width, int threads, void* memory)
      : thread_floats(round_to(3 * width, scratch_line / int64_t{sizeof(float)})),
        widened_bytes(0),
        end(reinterpret_cast<uintptr_t>(align_line(memory))) {
    if (p.residual_channels != 0 && p.residual_channels != p.channels)
      widened_bytes = std::max(width, piece_values) * int64_t{sizeof(float)};
    partial = take<double>(block_count(p) * 2 * p.channels);
    total = take<double>(2 * p.channels + 1);
    channels = take<float>(5 * width);
    sums = take<float>(threads * thread_floats);
    widened = take<char>(threads * 2 * widened_bytes);
  }

 private:
  template <class T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(end);
    end += static_cast<uintptr_t>(round_to(count * int64_t{sizeof(T)}, scratch_line));
    return taken;
  }
};

Status check(const BnActParams& p, int threads, Isa isa) {
  if (const Status status = validate(p); !status.ok()) return status;
  return check_run(threads, isa);
}

template <class Run>
void for_blocks(const BnActParams& p, const Blocks& blocks, int threads, bool backwards, const Run& run) {
  const double bytes = double{2} * p.rows * p.channels * itemsize(p.storage);  // one tensor in, one out
  const int team = paying_threads(threads, blocks.count, bytes * byte_ns);
#pragma omp parallel num_threads(team)
  {
#ifdef _OPENMP
    const int64_t thread = omp_get_thread_num(), of = omp_get_num_threads();
#else
    const int64_t thread = 0, of = 1;
#endif
    const int64_t begin = blocks.count * thread / of, end = blocks.count * (thread + 1) / of;
    for (int64_t i = begin; i < end; ++i) run(backwards ? end - 1 - (i - begin) : i, thread);
  }
}

template <class T>
void advance(const T*& p, int64_t bytes) {
  if (p) p = reinterpret_cast<const T*>(reinterpret_cast<const char*>(p) + bytes);
}

// The values behind `first` wide rows: `count` wide rows and a tail of them.
BnActRows part(BnActRows a, const BnActParams& p, int64_t first, int64_t count, int64_t tail,
               bool narrow_output) {
  const int64_t bytes = first * a.width * itemsize(p.storage);
  const int64_t narrow = first * a.width / p.channels * p.residual_channels * itemsize(p.storage);
  const void* output = a.output;
  advance(a.x, bytes);
  advance(a.grad, bytes);
  advance(a.dz, bytes);
  advance(a.residual, narrow);
  advance(output, narrow_output ? narrow : bytes);
  a.output = const_cast<void*>(output);
  a.count = count;
  a.tail = tail;
  return a;
}

// Copies `rows` rows of `from_bytes` to as many of `to_bytes`: cut, or filled up with zeros.
void copy_rows(const void* from, int64_t from_bytes, void* to, int64_t to_bytes, int64_t rows) {
  const int64_t common = std::min(from_bytes, to_bytes);
  for (int64_t i = 0; i < rows; ++i) {
    char* row = static_cast<char*>(to) + i * to_bytes;
    std::memcpy(row, static_cast<const char*>(from) + i * from_bytes, static_cast<size_t>(common));
    std::memset(row + common, 0, static_cast<size_t>(to_bytes - common));
  }
}

using Kernel = void (*)(const BnActRows&);

// Runs a kernel on one block. `narrow_output`: its output has the residual's channels.
void run_block(Kernel kernel, const BnActRows& a, const BnActParams& p, const Blocks& blocks, int64_t i,
               bool narrow_output, char* widened, int64_t widened_bytes) {
  const int64_t begin = i * blocks.block, count = blocks.wide_rows(i);
  if (p.residual_channels == 0 || p.residual_channels == p.channels) {
    kernel(part(a, p, begin, count, blocks.tail_of(i), false));
    return;
  }
  const int64_t row = p.channels * itemsize(p.storage);
  const int64_t narrow_row = p.residual_channels * itemsize(p.storage);
  const int64_t piece = std::max<int64_t>(1, piece_values / a.width);
  for (int64_t done = 0; done <= count; done += piece) {
    const int64_t wide_rows = std::min(piece, count - done);
    const int64_t tail = done + piece > count ? blocks.tail_of(i) : 0;
    // A piece of less than `piece` wide rows has room for the tail.
    BnActRows some = part(a, p, begin + done, wide_rows, tail, narrow_output);
    const int64_t rows = (wide_rows * a.width + tail) / p.channels;
    copy_rows(some.residual, narrow_row, widened, row, rows);
    some.residual = widened;
    void* output = some.output;
    if (narrow_output && output) some.output = widened + widened_bytes;
    kernel(some);
    if (narrow_output && output) copy_rows(some.output, row, output, narrow_row, rows);
  }
}

float first_value(const void* values, Dtype storage, int64_t i) {
  if (storage == Dtype::float32) return static_cast<const float*>(values)[i];
  const uint32_t bits = static_cast<uint32_t>(static_cast<const Bf16*>(values)[i].bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Adds up what belongs to one channel: [2, width] to [2, channels].
void fold(const float* sums, int64_t width, int64_t channels, double* folded) {
  for (int64_t k = 0; k < 2; ++k, sums += width, folded += channels) {
    std::fill_n(folded, channels, 0.0);
    for (int64_t from = 0; from < width; from += channels)
      for (int64_t c = 0; c < channels; ++c) folded[c] += static_cast<double>(sums[from + c]);
  }
}

// Repeats one value per channel to a wide row of them.
void repeat(float* to, int64_t channels, int64_t width) {
  for (int64_t c = channels; c < width; ++c) to[c] = to[c - channels];
}

double inverse_deviation(float var, float eps) {
  return 1.0 / std::sqrt(static_cast<double>(var) + static_cast<double>(eps));
}

// Returns rows with all that normalizes them, which is put into `channels`: [3, width].
BnActRows normalizing(const BnActParams& p, int64_t width, const float* mean, const float* var,
                      const float* weight, const float* bias, float* channels) {
  float *means = channels, *scale = means + width, *shift = scale + width;
  for (int64_t c = 0; c < p.channels; ++c) {
    means[c] = mean[c];
    scale[c] =
        static_cast<float>(inverse_deviation(var[c], p.eps) * static_cast<double>(weight ? weight[c] : 1.f));
    shift[c] = bias ? bias[c] : 0.f;
  }
  for (float* values : {means, scale, shift}) repeat(values, p.channels, width);
  BnActRows a{};
  a.width = width;
  a.activation = p.activation;
  a.mean = means;
  a.scale = scale;
  a.bias = shift;
  return a;
}

}  // namespace

int64_t bn_act_workspace_cpu(const BnActParams& p, int threads) {
  if (!validate(p).ok() || threads < 1) return 0;
  const Workspace space(p, wide_row(p.channels, widest_vector), threads, nullptr);
  return static_cast<int64_t>(space.end) + scratch_line;
}

Status batch_statistics_cpu(const BnActParams& p, const void* x, void* workspace, int threads, Isa isa,
                            float* mean, float* var) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  std::fill_n(mean, p.channels, 0.f);
  std::fill_n(var, p.channels, 0.f);
  if (p.rows == 0) return {};
  const BnActKernels& run = kernels[isa];
  const Blocks blocks(p, run.width);
  const Workspace space(p, blocks.width, threads, workspace);
  const int64_t channels = p.channels, width = blocks.width;
  BnActRows whole{};
  whole.x = x;
  whole.width = width;

  for_blocks(p, blocks, threads, true, [&](int64_t i, int64_t thread) {
    float* sums = space.sums + thread * space.thread_floats;
    float* shift = sums + 2 * width;
    BnActRows a = part(whole, p, i * blocks.block, blocks.wide_rows(i), blocks.tail_of(i), false);
    for (int64_t c = 0; c < channels; ++c) {
      const float value = first_value(a.x, p.storage, c);
      shift[c] = std::isfinite(value) ? value : 0.f;  // an Inf less itself would be a NaN
    }
    repeat(shift, channels, width);
    std::fill_n(sums, 2 * width, 0.f);
    a.mean = shift;
    a.sums = sums;
    run.statistics[static_cast<int>(p.storage)](a);
    double* partial = space.partial + i * 2 * channels;
    fold(sums, width, channels, partial);
    const auto rows = static_cast<double>(blocks.rows(i));
    for (int64_t c = 0; c < channels; ++c) {
      const double above = partial[c] / rows;
      partial[c] = static_cast<double>(shift[c]) + above;
      partial[channels + c] -= above * above * rows;
    }
  });

  double* total = space.partial;  // the first block's, to which the others are added
  double seen = static_cast<double>(blocks.rows(0));
  for (int64_t i = 1; i < blocks.count; ++i) {
    const double* partial = total + i * 2 * channels;
    const auto rows = static_cast<double>(blocks.rows(i));
    seen += rows;
    for (int64_t c = 0; c < channels; ++c) {
      const double apart = partial[c] - total[c];
      total[c] += apart * (rows / seen);
      total[channels + c] += partial[channels + c] + apart * apart * ((seen - rows) * (rows / seen));
    }
  }
  for (int64_t c = 0; c < channels; ++c) {
    const double variance = total[channels + c] / seen;
    mean[c] = static_cast<float>(total[c]);
    var[c] = static_cast<float>(variance < 0.0 ? 0.0 : variance);
  }
  return {};
}

Status update_running_cpu(int64_t rows, int64_t channels, const float* mean, const float* var,
                          double momentum, float* running_mean, float* running_var) {
  if (const Status status = validate_running(rows, channels); !status.ok()) return status;
  const double unbiased = momentum * (static_cast<double>(rows) / static_cast<double>(rows - 1));
  for (int64_t c = 0; c < channels; ++c) {
    running_mean[c] = static_cast<float>((1.0 - momentum) * static_cast<double>(running_mean[c]) +
                                         momentum * static_cast<double>(mean[c]));
    running_var[c] = static_cast<float>((1.0 - momentum) * static_cast<double>(running_var[c]) +
                                        unbiased * static_cast<double>(var[c]));
  }
  return {};
}

Status bn_act_forward_cpu(const BnActParams& p, const void* x, const float* mean, const float* var,
                          const float* weight, const float* bias, const void* residual, void* workspace,
                          int threads, Isa isa, void* y) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if (p.rows == 0) return {};
  const BnActKernels& run = kernels[isa];
  const Blocks blocks(p, run.width);
  const Workspace space(p, blocks.width, threads, workspace);
  BnActRows a = normalizing(p, blocks.width, mean, var, weight, bias, space.channels);
  a.x = x;
  a.residual = residual;
  a.output = y;
  for_blocks(p, blocks, threads, false, [&](int64_t i, int64_t thread) {
    run_block(run.forward[static_cast<int>(p.storage)], a, p, blocks, i, false,
              space.widened + thread * 2 * space.widened_bytes, space.widened_bytes);
  });
  return {};
}

Status bn_act_sums_cpu(const BnActParams& p, const void* grad, const void* x, const float* mean,
                       const float* var, const float* weight, const float* bias, const void* residual,
                       void* workspace, int threads, Isa isa, double* sums, float* grad_weight,
                       float* grad_bias, void* grad_residual) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  const int64_t channels = p.channels;
  std::fill_n(sums, 2 * channels, 0.0);
  sums[2 * channels] = static_cast<double>(p.rows);
  if (p.rows > 0) {
    const BnActKernels& run = kernels[isa];
    const Blocks blocks(p, run.width);
    const int64_t width = blocks.width;
    const Workspace space(p, width, threads, workspace);
    BnActRows a = normalizing(p, width, mean, var, weight, bias, space.channels);
    a.x = x;
    a.grad = grad;
    a.residual = residual;
    a.output = grad_residual;
    for_blocks(p, blocks, threads, true, [&](int64_t i, int64_t thread) {
      BnActRows own = a;
      own.sums = space.sums + thread * space.thread_floats;
      std::fill_n(own.sums, 2 * width, 0.f);
      run_block(run.reduce[static_cast<int>(p.storage)], own, p, blocks, i, true,
                space.widened + thread * 2 * space.widened_bytes, space.widened_bytes);
      fold(own.sums, width, channels, space.partial + i * 2 * channels);
    });
    for (int64_t i = 0; i < blocks.count; ++i)
      for (int64_t c = 0; c < 2 * channels; ++c) sums[c] += space.partial[i * 2 * channels + c];
  }
  for (int64_t c = 0; c < channels; ++c) {
    if (grad_bias) grad_bias[c] = static_cast<float>(sums[c]);
    if (grad_weight)
      grad_weight[c] = static_cast<float>(sums[channels + c] * inverse_deviation(var[c], p.eps));
  }
  return {};
}

Status bn_act_grad_x_cpu(const BnActParams& p, const void* grad, const void* x, const float* mean,
                         const float* var, const float* weight, const float* bias, const void* residual,
                         const void* dz, const double* sums, void* workspace, int threads, Isa isa,
                         void* grad_x) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if (p.rows == 0) return {};
  const BnActKernels& run = kernels[isa];
  const Blocks blocks(p, run.width);
  const int64_t channels = p.channels, width = blocks.width;
  const Workspace space(p, width, threads, workspace);
  BnActRows a = normalizing(p, width, mean, var, weight, bias, space.channels);
  a.x = x;
  a.grad = grad;
  a.residual = residual;
  a.dz = dz;
  a.output = grad_x;
  if (p.batch_statistics) {
    float *grad_mean = space.channels + 3 * width, *grad_slope = grad_mean + width;
    const double rows = sums[2 * channels];
    for (int64_t c = 0; c < channels; ++c) {
      const double inverse = inverse_deviation(var[c], p.eps);
      grad_mean[c] = static_cast<float>(sums[c] / rows);
      grad_slope[c] = static_cast<float>(sums[channels + c] * inverse * inverse / rows);
    }
    repeat(grad_mean, channels, width);
    repeat(grad_slope, channels, width);
    a.grad_mean = grad_mean;
    a.grad_slope = grad_slope;
  }
  for_blocks(p, blocks, threads, false, [&](int64_t i, int64_t thread) {
    run_block(run.grad_x[static_cast<int>(p.storage)], a, p, blocks, i, false,
              space.widened + thread * 2 * space.widened_bytes, space.widened_bytes);
  });
  return {};
}

Status bn_act_backward_cpu(const BnActParams& p, const void* grad, const void* x, const float* mean,
                           const float* var, const float* weight, const float* bias, const void* residual,
                           void* workspace, int threads, Isa isa, void* grad_x, float* grad_weight,
                           float* grad_bias, void* grad_residual) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  const Workspace space(p, wide_row(p.channels, kernels[isa].width), threads, workspace);
  if (grad_weight || grad_bias || grad_residual || (p.batch_statistics && grad_x)) {
    const Status status = bn_act_sums_cpu(p, grad, x, mean, var, weight, bias, residual, workspace, threads,
                                          isa, space.total, grad_weight, grad_bias, grad_residual);
    if (!status.ok()) return status;
  }
  if (!grad_x) return {};
  const void* const dz = p.residual_channels == p.channels ? grad_residual : nullptr;
  return bn_act_grad_x_cpu(p, grad, x, mean, var, weight, bias, residual, dz, space.total, workspace, threads,
                           isa, grad_x);
}

}  // namespace lasfast
