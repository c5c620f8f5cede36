// Depthwise convolution on NHWC values on the CPU: forward and both gradients.
//
// Work is cut into pieces that a second-level cache holds: some whole images, or a band of rows of one.
// Within a piece the channels go by one vector at a time, so that a few rows of it stay in the first-level
// cache. Statistics and the weight's gradient are summed per piece or run of pieces, and those sums in order.
// How the work is cut depends on the sizes only; which thread takes which piece then changes no bit.

#include "lasfast/depthwise_nhwc.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "depthwise_nhwc_kernels.h"
#include "dispatch.h"
#include "lasfast/round.h"
#include "norm_affine.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace lasfast {
namespace {

constexpr int64_t piece_bytes = 128 << 10;  // read and written; the next one is prefetched beside it
constexpr int64_t least_rows = 8;           // of a band: the rows above and below it are read twice
constexpr int64_t most_parts = 32;          // of the weight's gradient
constexpr int most_width = 16;              // of vectors

constexpr KernelTables<DepthwiseKernels> kernels = {
    {LASFAST_GENERIC(depthwise_kernels), LASFAST_AVX2(depthwise_kernels), LASFAST_AVX512(depthwise_kernels),
     LASFAST_AVX512_BF16(depthwise_kernels), nullptr, LASFAST_NEON(depthwise_kernels),
     LASFAST_NEON_BF16(depthwise_kernels)}};

// Fewer channels than a vector of AVX-512 has take partial loads, one output at a time; AVX2's is half as
// wide.
const DepthwiseKernels& kernels_for(const DepthwiseNhwcParams& p, Isa isa) {
  const DepthwiseKernels& own = kernels[isa];
  const DepthwiseKernels& narrower = kernels[Isa::avx2];
  const bool is_narrow = p.channels < own.width && narrower.width < own.width;
  return is_narrow && isa_supported(Isa::avx2) ? narrower : own;
}

Status check(const DepthwiseNhwcParams& p, int threads, Isa isa) {
  if (const Status status = validate(p); !status.ok()) return status;
  return check_run(threads, isa);
}

int64_t image_bytes(const DepthwiseNhwcParams& p) {
  return (p.height * p.width + p.out_height * p.out_width) * p.channels * itemsize(p.storage);
}

// What a pass over a batch takes one thread.
double pass_ns(const DepthwiseNhwcParams& p) {
  const double multiply_adds = double{1} * p.out_height * p.out_width * p.channels * p.kernel * p.kernel;
  return p.batch * (multiply_adds * multiply_add_ns + image_bytes(p) * byte_ns);
}

// Says how a batch of images of `height` rows is cut.
struct Pieces {
  int64_t images, rows, bands, count;

  Pieces(const DepthwiseNhwcParams& p, int64_t height) {
    const int64_t bytes = std::max<int64_t>(1, image_bytes(p));
    images = std::clamp<int64_t>(piece_bytes / bytes, 1, std::max<int64_t>(1, p.batch));
    const int64_t fitting = divide_up(height, divide_up(bytes, piece_bytes));
    rows = std::clamp<int64_t>(fitting, std::min(least_rows, height), height);
    bands = divide_up(height, rows);
    count = divide_up(p.batch, images) * bands;
  }
};

struct Piece {
  int64_t image, images, row, rows;

  Piece(const DepthwiseNhwcParams& p, const Pieces& all, int64_t height, int64_t number)
      : image(number / all.bands * all.images),
        images(std::min(all.images, p.batch - image)),
        row(number % all.bands * all.rows),
        rows(std::min(all.rows, height - row)) {}
};

// Runs of pieces whose sums are kept apart: several, for threads to share, where they are few beside the
// values.
int64_t part_count(const DepthwiseNhwcParams& p, int64_t pieces) {
  const int64_t sums = p.kernel * p.kernel * p.channels * int64_t{sizeof(float)};
  return std::clamp<int64_t>(p.batch * image_bytes(p) / (8 * sums), 1, std::min(most_parts, pieces));
}

int64_t vector_count(const DepthwiseNhwcParams& p, int width) { return divide_up(p.channels, width); }

// The channel that a vector begins with (see depthwise_nhwc_kernels.h).
int64_t slot_begin(const DepthwiseNhwcParams& p, int64_t vector, int width) {
  return std::max<int64_t>(0, std::min(vector * width, p.channels - width));
}

float widened(float value) { return value; }
float widened(Bf16 half) {
  const uint32_t bits = uint32_t{half.bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// The taps of all phases in the order that DepthwiseArgs asks for; `call` gets row and column of each.
template <class F>
void for_phases(const DepthwiseNhwcParams& p, F call) {
  const int64_t k = p.kernel, s = p.stride;
  const auto last = [&](int64_t phase) { return phase + (k - 1 - phase) / s * s; };
  for (int64_t a = 0; a < std::min(s, k); ++a)
    for (int64_t b = 0; b < std::min(s, k); ++b)
      for (int64_t r = last(a); r >= 0; r -= s)
        for (int64_t c = last(b); c >= 0; c -= s) call(r, c);
}

template <class F>
void for_taps(const DepthwiseNhwcParams& p, F call) {
  for (int64_t r = 0; r < p.kernel; ++r)
    for (int64_t c = 0; c < p.kernel; ++c) call(r, c);
}

template <class T>
void pack_as(const DepthwiseNhwcParams& p, Pass pass, const T* weight, int width, float* packed) {
  const int64_t* stride = p.weight_stride;
  for (int64_t v = 0; v < vector_count(p, width); ++v) {
    const int64_t begin = slot_begin(p, v, width), channels = p.channels - begin;
    const auto put = [&](int64_t r, int64_t s) {
      const T* from = weight + begin * stride[0] + r * stride[1] + s * stride[2];
      for (int64_t i = 0; i < width; ++i) *packed++ = i < channels ? widened(from[i * stride[0]]) : 0.f;
    };
    if (pass == Pass::forward)
      for_taps(p, put);
    else
      for_phases(p, put);
  }
}

const char* bytes_at(const void* p, int64_t bytes) { return static_cast<const char*>(p) + bytes; }
char* bytes_at(void* p, int64_t bytes) { return static_cast<char*>(p) + bytes; }

// What the piece after `number` reads or writes of two tensors, of so many bytes an image.
DepthwiseAhead ahead_of(const DepthwiseNhwcParams& p, const Pieces& pieces, int64_t height, int64_t number,
                        const void* first, int64_t first_image, const void* second, int64_t second_image) {
  const auto begin = [&](int64_t i, int64_t image) {
    if (i >= pieces.count) return p.batch * image;
    const Piece piece(p, pieces, height, i);
    return piece.image * image + image * piece.row / height;
  };
  const int64_t next = number + 1, past = number + 2;
  return {bytes_at(first, begin(next, first_image)), bytes_at(second, begin(next, second_image)),
          begin(past, first_image) - begin(next, first_image),
          begin(past, second_image) - begin(next, second_image)};
}

void pack(const DepthwiseNhwcParams& p, Pass pass, const void* weight, int width, float* packed) {
  if (p.weight_dtype == Dtype::float32)
    pack_as(p, pass, static_cast<const float*>(weight), width, packed);
  else
    pack_as(p, pass, static_cast<const Bf16*>(weight), width, packed);
}

DepthwiseArgs arguments(const DepthwiseNhwcParams& p, const Piece& piece, const float* weight) {
  DepthwiseArgs a{};
  a.images = piece.images, a.channels = p.channels;
  a.height = p.height, a.width = p.width, a.out_height = p.out_height, a.out_width = p.out_width;
  a.kernel = p.kernel, a.stride = p.stride, a.padding = p.padding;
  a.row = piece.row, a.rows = piece.rows;
  a.weight = weight;
  return a;
}

// Statistics of all pieces from those of each, [pieces][mean, squares][slots].
void merge_statistics(const DepthwiseNhwcParams& p, const Pieces& pieces, const float* all, int width,
                      float* mean, float* variance) {
  const int64_t slots = vector_count(p, width) * width;
  const double total = static_cast<double>(p.batch * p.out_height * p.out_width);
  for (int64_t v = 0; v < vector_count(p, width); ++v) {
    double average[most_width] = {}, squares[most_width] = {};
    const auto add = [&](auto call) {
      for (int64_t number = 0; number < pieces.count; ++number) {
        const Piece piece(p, pieces, p.out_height, number);
        const double values = static_cast<double>(piece.images * piece.rows * p.out_width);
        const float* means = all + 2 * number * slots + v * width;
        for (int i = 0; i < width; ++i) call(i, values, double{means[i]}, double{means[slots + i]});
      }
    };
    add([&](int i, double values, double mean, double) { average[i] += values / total * mean; });
    add([&](int i, double values, double mean, double square) {
      squares[i] += square + values * (mean - average[i]) * (mean - average[i]);
    });
    const int64_t begin = slot_begin(p, v, width);
    for (int64_t i = 0; i < std::min<int64_t>(width, p.channels - begin); ++i) {
      mean[begin + i] = static_cast<float>(average[i]);
      variance[begin + i] = static_cast<float>(squares[i] / total);
    }
  }
}

// Where the workspace of a forward pass goes on behind the packed weight.
float* behind_weight(const DepthwiseNhwcParams& p, void* workspace, Isa isa) {
  const int width = kernels_for(p, isa).width;
  return align_line<float>(workspace) + p.kernel * p.kernel * vector_count(p, width) * width;
}

// Runs the forward pass, on the last of `then` and with the statistics of each piece, if these are wanted.
void run_forward(const DepthwiseNhwcParams& p, const void* input, const void* weight, void* workspace,
                 int threads, Isa isa, void* output, const DepthwiseArgs& then, float* statistics) {
  const DepthwiseKernels& run = kernels_for(p, isa);
  const auto forward = run.passes[static_cast<int>(p.storage)].forward;
  const int64_t slots = vector_count(p, run.width) * run.width, pixel = p.channels * itemsize(p.storage);
  const Pieces pieces(p, p.out_height);
  float* const packed = align_line<float>(workspace);
  pack(p, Pass::forward, weight, run.width, packed);

  const int team = paying_threads(threads, pieces.count, pass_ns(p));
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t i = 0; i < pieces.count; ++i) {
    const Piece piece(p, pieces, p.out_height, i);
    DepthwiseArgs a = arguments(p, piece, packed);
    a.from = bytes_at(input, piece.image * p.height * p.width * pixel);
    a.to = bytes_at(output, piece.image * p.out_height * p.out_width * pixel);
    a.scale = then.scale, a.shift = then.shift, a.activation = then.activation;
    if (statistics) {
      a.mean = statistics + 2 * i * slots;
      a.squares = a.mean + slots;
    }
    a.ahead = ahead_of(p, pieces, p.out_height, i, input, p.height * p.width * pixel, output,
                       p.out_height * p.out_width * pixel);
    forward(a);
  }
}

// Calls before(pieces, number) once for each piece, before its products are added.
template <class F>
void weight_gradient(const DepthwiseNhwcParams& p, const void* grad_output, const void* input, float* sums,
                     int threads, const DepthwiseKernels& run, const int64_t* stride, float* grad_weight,
                     F before) {
  if (p.batch * p.out_height * p.out_width == 0) {
    for (int64_t c = 0; c < p.channels; ++c)
      for_taps(
          p, [&](int64_t r, int64_t s) { grad_weight[c * stride[0] + r * stride[1] + s * stride[2]] = 0.f; });
    return;
  }
  if (p.channels == 0) return;
  const auto gradient = run.passes[static_cast<int>(p.storage)].grad_weight;
  const int width = run.width;
  const int64_t vectors = vector_count(p, width), taps = p.kernel * p.kernel,
                part_floats = vectors * taps * width;
  const int64_t pixel = p.channels * itemsize(p.storage);
  const Pieces pieces(p, p.out_height);
  const int64_t parts = part_count(p, pieces.count);
  // Channels do not meet, so that where parts are few, threads share those too.
  const int64_t blocks = std::min(vectors, divide_up(threads, parts)), items = parts * blocks;

  const int team = paying_threads(threads, items, pass_ns(p));
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t item = 0; item < items; ++item) {
    const int64_t part = item / blocks, block = item % blocks;
    const int64_t begin = pieces.count * part / parts, end = pieces.count * (part + 1) / parts;
    const int64_t vector = vectors * block / blocks, next = vectors * (block + 1) / blocks;
    for (int64_t i = begin; i < end; ++i) {
      if (block == 0) before(pieces, i);
      const Piece piece(p, pieces, p.out_height, i);
      gradient({bytes_at(grad_output, piece.image * p.out_height * p.out_width * pixel),
                bytes_at(input, piece.image * p.height * p.width * pixel), piece.images, p.channels, p.height,
                p.width, p.out_height, p.out_width, p.kernel, p.stride, p.padding, piece.row, piece.rows,
                ahead_of(p, pieces, p.out_height, i, grad_output, p.out_height * p.out_width * pixel, input,
                         p.height * p.width * pixel),
                vector, next - vector, i > begin, sums + part * part_floats});
    }
  }

  const int adding_team = paying_threads(threads, vectors, double{4} * parts * part_floats * byte_ns);
#pragma omp parallel for schedule(static) num_threads(adding_team)
  for (int64_t v = 0; v < vectors; ++v) {
    float* total = sums + v * taps * width;
    for (int64_t part = 1; part < parts; ++part)
      for (int64_t i = 0; i < taps * width; ++i) total[i] += total[part * part_floats + i];
    const int64_t begin = slot_begin(p, v, width);
    for (int64_t c = v * width; c < std::min(p.channels, (v + 1) * width); ++c)
      for_taps(p, [&](int64_t r, int64_t s) {
        grad_weight[c * stride[0] + r * stride[1] + s * stride[2]] =
            total[(r * p.kernel + s) * width + c - begin];
      });
  }
}

}  // namespace

int64_t depthwise_nhwc_workspace_cpu(const DepthwiseNhwcParams& p, Pass pass, Isa isa) {
  if (!validate(p).ok() || !isa_supported(isa)) return 0;
  if (p.batch * p.channels == 0) return 0;
  if (pass != Pass::grad_input && p.out_height * p.out_width == 0) return 0;
  const int width = kernels_for(p, isa).width;
  const int64_t slots = vector_count(p, width) * width, taps = p.kernel * p.kernel * slots;
  int64_t floats = taps;
  if (pass == Pass::forward) floats += 2 * slots * Pieces(p, p.out_height).count;
  if (pass == Pass::grad_weight) floats = taps * part_count(p, Pieces(p, p.out_height).count);
  return floats * int64_t{sizeof(float)} + scratch_line;
}

Status depthwise_nhwc_forward_cpu(const DepthwiseNhwcParams& p, const void* input, const void* weight,
                                  void* workspace, int threads, Isa isa, void* output, float* mean,
                                  float* variance) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if ((mean == nullptr) != (variance == nullptr)) return invalid("mean and variance are wanted together");
  if (p.batch * p.out_height * p.out_width * p.channels == 0) {
    if (mean) {
      std::fill_n(mean, p.channels, std::numeric_limits<float>::quiet_NaN());
      std::fill_n(variance, p.channels, std::numeric_limits<float>::quiet_NaN());
    }
    return {};
  }
  float* const statistics = mean ? behind_weight(p, workspace, isa) : nullptr;
  DepthwiseArgs args{};
  run_forward(p, input, weight, workspace, threads, isa, output, args, statistics);
  if (mean)
    merge_statistics(p, Pieces(p, p.out_height), statistics, kernels_for(p, isa).width, mean, variance);
  return {};
}

Status depthwise_nhwc_predict_cpu(const DepthwiseNhwcParams& p, const void* input, const void* weight,
                                  const Prediction& then, void* workspace, int threads, Isa isa,
                                  void* output) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if (const Status status = validate(then, p.channels); !status.ok()) return status;
  if (then.residual) return unsupported("a depthwise convolution takes no residual");
  if (p.batch * p.out_height * p.out_width * p.channels == 0) return {};
  const int width = kernels_for(p, isa).width;
  const int64_t slots = vector_count(p, width) * width;
  float* const scale = behind_weight(p, workspace, isa);
  for (int64_t slot = 0; slot < slots; ++slot) {
    const int64_t channel = slot_begin(p, slot / width, width) + slot % width;
    const ScaleShift affine = channel < p.channels ? norm_affine(then, channel) : ScaleShift{0.f, 0.f};
    scale[slot] = affine.scale;
    scale[slots + slot] = affine.shift;
  }
  DepthwiseArgs args{};
  args.scale = scale;
  args.shift = scale + slots;
  args.activation = then.activation;
  run_forward(p, input, weight, workspace, threads, isa, output, args, nullptr);
  return {};
}

Status depthwise_nhwc_grad_input_cpu(const DepthwiseNhwcParams& p, const void* grad_output,
                                     const void* weight, void* workspace, int threads, Isa isa,
                                     void* grad_input) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if (p.batch * p.height * p.width * p.channels == 0) return {};
  const DepthwiseKernels& run = kernels_for(p, isa);
  const auto gradient = run.passes[static_cast<int>(p.storage)].grad_input;
  const int64_t pixel = p.channels * itemsize(p.storage);
  const Pieces pieces(p, p.height);
  float* packed = align_line<float>(workspace);
  pack(p, Pass::grad_input, weight, run.width, packed);

  const int team = paying_threads(threads, pieces.count, pass_ns(p));
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t i = 0; i < pieces.count; ++i) {
    const Piece piece(p, pieces, p.height, i);
    DepthwiseArgs a = arguments(p, piece, packed);
    a.from = bytes_at(grad_output, piece.image * p.out_height * p.out_width * pixel);
    a.to = bytes_at(grad_input, piece.image * p.height * p.width * pixel);
    a.ahead = ahead_of(p, pieces, p.height, i, grad_output, p.out_height * p.out_width * pixel, grad_input,
                       p.height * p.width * pixel);
    gradient(a);
  }
  return {};
}

Status depthwise_nhwc_grad_weight_cpu(const DepthwiseNhwcParams& p, const void* grad_output,
                                      const void* input, void* workspace, int threads, Isa isa,
                                      float* grad_weight) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  weight_gradient(p, grad_output, input, align_line<float>(workspace), threads, kernels_for(p, isa),
                  p.weight_stride, grad_weight, [](const Pieces&, int64_t) {});
  return {};
}

Status depthwise_nhwc_backward_cpu(const DepthwiseNhwcParams& p, const void* grad_output, const void* input,
                                   const void* weight, const int64_t* grad_weight_stride, void* workspace,
                                   int threads, Isa isa, void* grad_input, float* grad_weight) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if (p.batch * p.out_height * p.out_width * p.channels == 0) {  // no pieces
    weight_gradient(p, grad_output, input, nullptr, threads, kernels_for(p, isa), grad_weight_stride,
                    grad_weight, [](const Pieces&, int64_t) {});
    return depthwise_nhwc_grad_input_cpu(p, grad_output, weight, workspace, threads, isa, grad_input);
  }
  const DepthwiseKernels& run = kernels_for(p, isa);
  const auto gradient = run.passes[static_cast<int>(p.storage)].grad_input;
  const int64_t pixel = p.channels * itemsize(p.storage);
  const int64_t image = p.height * p.width * pixel, out_image = p.out_height * p.out_width * pixel;
  float* packed = align_line<float>(workspace);
  float* sums = packed + p.kernel * p.kernel * vector_count(p, run.width) * run.width;
  pack(p, Pass::grad_input, weight, run.width, packed);

  const auto grad_input_piece = [&](const Pieces& pieces, int64_t number) {
    const Piece piece(p, pieces, p.out_height, number);
    const auto begin = [&](int64_t row) {
      return row < p.out_height ? std::min(p.height, row * p.stride) : p.height;
    };
    DepthwiseArgs a = arguments(p, piece, packed);
    a.row = begin(piece.row);
    a.rows = begin(piece.row + piece.rows) - a.row;
    if (a.rows * p.width == 0) return;
    a.from = bytes_at(grad_output, piece.image * out_image);
    a.to = bytes_at(grad_input, piece.image * image);
    a.ahead = ahead_of(p, pieces, p.out_height, number, grad_output, out_image, grad_input, image);
    gradient(a);
  };
  weight_gradient(p, grad_output, input, sums, threads, run, grad_weight_stride, grad_weight,
                  grad_input_piece);
  return {};
}

}  // namespace lasfast
