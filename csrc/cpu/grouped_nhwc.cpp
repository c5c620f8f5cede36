// Grouped convolution on NHWC values on the CPU: how its passes are cut into items.
//
// An item is one vector of channels (see grouped_nhwc_kernels.h) of some whole images, or of a band of rows
// of one: as many as the copies that it works on stay near the core. Statistics and the weight's gradient are
// summed per item, and those sums in order. How the work is cut depends on the sizes only; which thread takes
// which item then changes no bit.

#include "lasfast/grouped_nhwc.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "dispatch.h"
#include "grouped_nhwc_kernels.h"
#include "lasfast/round.h"
#include "norm_affine.h"
#include "scratch.h"
#include "threads.h"
#include "vec.h"

namespace lasfast {
namespace {

constexpr int64_t copied_floats = 8 << 10;  // of an item: with weights and sums, a first-level cache
constexpr int64_t least_rows = 4;           // of a band: the rows above and below it are copied twice
constexpr int64_t wanted_items = 32;        // of the weight's gradient, for threads to share

constexpr KernelTables<GroupedKernels> kernels = {
    {LASFAST_GENERIC(grouped_kernels), LASFAST_AVX2(grouped_kernels), LASFAST_AVX512(grouped_kernels),
     LASFAST_AVX512_BF16(grouped_kernels), nullptr, LASFAST_NEON(grouped_kernels),
     LASFAST_NEON_BF16(grouped_kernels)}};

Status check(const GroupedNhwcParams& p, int threads, Isa isa) {
  if (const Status status = validate(p); !status.ok()) return status;
  return check_run(threads, isa);
}

bool has_values(const GroupedNhwcParams& p) {
  return p.batch * p.c_in * p.height * p.width * p.c_out * p.out_height * p.out_width > 0;
}

double weight_count(const GroupedNhwcParams& p) {
  return double{1} * p.c_out * (p.c_in / p.groups) * p.kernel * p.kernel;
}

// What a pass over a batch takes one thread.
double pass_ns(const GroupedNhwcParams& p) {
  const double values =
      double{1} * p.c_in * p.height * p.width + double{1} * p.c_out * p.out_height * p.out_width;
  const double multiply_adds = weight_count(p) * p.out_height * p.out_width;
  return p.batch * (multiply_adds * multiply_add_ns + values * itemsize(p.storage) * byte_ns);
}

// The vectors that hold `results` channels of each group, computed from `sources` of the same group.
struct Vectors {
  int64_t width, groups, results, sources;
  int64_t together;   // groups of a vector
  int64_t per_group;  // vectors, where it has one
  int64_t count;      // of vectors

  Vectors(int64_t width, int64_t groups, int64_t results, int64_t sources)
      : width(width),
        groups(groups),
        results(results),
        sources(sources),
        together(results == sources && (2 * results == width || 4 * results == width) ? width / results : 1),
        per_group(divide_up(results, width)),
        count(together > 1 ? divide_up(groups, together) : groups * per_group) {}

  // The first result of a vector: the last one overlaps the one before it, which costs less than partial
  // loads.
  int64_t begin(int64_t vector) const {
    if (together > 1) return std::max<int64_t>(0, std::min(vector * width, groups * results - width));
    return vector / per_group * results +
           std::max<int64_t>(0, std::min(vector % per_group * width, results - width));
  }
  int64_t source(int64_t vector) const { return together > 1 ? begin(vector) : vector / per_group * sources; }
  int64_t channel_count() const { return std::min(width, together > 1 ? groups * results : results); }
  GroupedChannels channels(const int32_t* orders) const {
    const int64_t reads = together > 1 ? channel_count() : sources;
    return {channel_count(), reads, round_to(reads, width), sources, together, orders, orders + width};
  }
  // The channel of a lane, and the lane of a channel, as they lie from the first on.
  int64_t channel_of(int64_t lane) const {
    return together > 1 ? lane % together * results + lane / together : lane;
  }
  int64_t lane_of(int64_t channel) const {
    return together > 1 ? channel % results * together + channel / results : channel;
  }
  void fill_orders(int32_t* orders) const {
    for (int64_t i = 0; i < width; ++i) {
      orders[i] = static_cast<int32_t>(channel_of(i));
      orders[width + i] = static_cast<int32_t>(lane_of(i));
    }
  }
};

Vectors output_vectors(const GroupedNhwcParams& p, int width) {
  return {width, p.groups, p.c_out / p.groups, p.c_in / p.groups};
}
Vectors input_vectors(const GroupedNhwcParams& p, int width) {
  return {width, p.groups, p.c_in / p.groups, p.c_out / p.groups};
}

// Says how a batch of images of `height` rows is cut, where `copies(rows)` floats are copied for so many rows
// of an image.
struct Pieces {
  int64_t batch, height, images, rows, bands, count;

  template <class F>
  Pieces(int64_t batch, int64_t height, F copies) : batch(batch), height(height), rows(height) {
    while (rows > least_rows && copies(rows) > copied_floats) rows = divide_up(rows, 2);
    bands = divide_up(height, rows);
    images = bands > 1 ? 1 : std::clamp<int64_t>(copied_floats / copies(rows), 1, batch);
    count = divide_up(batch, images) * bands;
  }
};

struct Piece {
  int64_t image, images, row, rows;

  Piece(const Pieces& all, int64_t number)
      : image(number / all.bands * all.images),
        images(std::min(all.images, all.batch - image)),
        row(number % all.bands * all.rows),
        rows(std::min(all.rows, all.height - row)) {}
};

// Rows of the input under so many rows of outputs, and rows of outputs that so many rows of the input meet.
int64_t input_rows(const GroupedNhwcParams& p, int64_t rows) {
  return std::min(p.height, (rows - 1) * p.stride + p.kernel);
}
int64_t output_rows(const GroupedNhwcParams& p, int64_t rows) {
  return std::min(p.out_height, (rows + p.kernel - 2) / p.stride + 2);
}

GroupedSide input_side(const GroupedNhwcParams& p) {
  return {p.height, p.width, p.height * p.width * p.c_in, p.width * p.c_in, p.c_in};
}
GroupedSide output_side(const GroupedNhwcParams& p) {
  return {p.out_height, p.out_width, p.out_height * p.out_width * p.c_out, p.out_width * p.c_out, p.c_out};
}

float widened(float value) { return value; }
float widened(Bf16 half) {
  const uint32_t bits = uint32_t{half.bits} << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// A pass over windows, forward or the gradient of the input, and its scratch memory, from the front: weights,
// orders of channels, what follows the sums (scale and shift, or statistics of each piece), then each
// thread's own.
struct Windows {
  Vectors vectors;
  GroupedSide read, written;
  Pieces pieces;
  int64_t vector_weights;  // floats of the weights of a vector
  int64_t weight_floats, order_floats, then_floats, own_floats;

  Windows(const GroupedNhwcParams& p, Pass pass, int width)
      : vectors(pass == Pass::forward ? output_vectors(p, width) : input_vectors(p, width)),
        read(pass == Pass::forward ? input_side(p) : output_side(p)),
        written(pass == Pass::forward ? output_side(p) : input_side(p)),
        pieces(p.batch, written.height, [&](int64_t rows) { return copies(p, pass, rows); }),
        vector_weights(p.kernel * p.kernel * vectors.sources * width),
        weight_floats(vectors.count * vector_weights),
        order_floats(round_to(2 * width, line)),
        then_floats(2 * pieces.count * vectors.count * width),
        own_floats(round_to(pieces.images * copies(p, pass, pieces.rows), line)) {}

  int64_t bytes(int threads) const {
    const int64_t floats = weight_floats + order_floats + round_to(then_floats, line) + threads * own_floats;
    return floats * int64_t{sizeof(float)} + scratch_line;
  }

 private:
  static constexpr int64_t line = scratch_line / int64_t{sizeof(float)};
  int64_t copies(const GroupedNhwcParams& p, Pass pass, int64_t rows) const {
    const int64_t of_rows = pass == Pass::forward ? input_rows(p, rows) : output_rows(p, rows);
    return std::max<int64_t>(1, of_rows * read.width * vectors.channels(nullptr).pitch);
  }
};

constexpr int most_width = 16;  // of vectors

// Packs the weights of a vector of results: `first` is where those of a lane begin, -1 for one without.
template <class T>
struct Packing {
  const GroupedNhwcParams& p;
  const Vectors& vectors;
  const T* weight;
  int64_t first[most_width];

  Packing(const GroupedNhwcParams& p, Pass pass, const Vectors& vectors, int64_t vector, const T* weight)
      : p(p), vectors(vectors), weight(weight) {
    const int64_t* const step = p.weight_stride;
    for (int64_t lane = 0; lane < vectors.width; ++lane) {
      const int64_t own = vectors.channel_of(lane), channel = vectors.begin(vector) + own;
      const int64_t group = channel / vectors.results, inner = channel % vectors.results;
      const int64_t place =
          pass == Pass::forward ? channel * step[0] : group * vectors.sources * step[0] + inner * step[1];
      first[lane] = own < vectors.channel_count() ? place : -1;
    }
  }

  // Packs what all lanes have at some elements from where theirs begin.
  void put(int64_t offset, float* to) const {
    const T* const from = weight + offset;
    for (int64_t lane = 0; lane < vectors.width; ++lane)
      to[lane] = first[lane] < 0 ? 0.f : widened(from[first[lane]]);
  }
};

template <class T>
void pack_vector(const GroupedNhwcParams& p, Pass pass, const Vectors& vectors, int64_t vector,
                 const T* weight, float* packed) {
  const Packing<T> packing(p, pass, vectors, vector, weight);
  const int64_t* const step = p.weight_stride;
  const int64_t k = p.kernel, width = vectors.width;
  const auto put = [&](int64_t r, int64_t source, int64_t s) {
    packing.put(source * step[pass == Pass::forward ? 1 : 0] + r * step[2] + s * step[3], packed);
    packed += width;
  };
  if (pass == Pass::forward) {
    for (int64_t r = 0; r < k; ++r)
      for (int64_t source = 0; source < vectors.sources; ++source)
        for (int64_t s = 0; s < k; ++s) put(r, source, s);
    return;
  }
  const auto last = [&](int64_t phase) { return phase + (k - 1 - phase) / p.stride * p.stride; };
  for (int64_t a = 0; a < std::min(p.stride, k); ++a)
    for (int64_t b = 0; b < std::min(p.stride, k); ++b)
      for (int64_t r = last(a); r >= 0; r -= p.stride)
        for (int64_t source = 0; source < vectors.sources; ++source)
          for (int64_t s = last(b); s >= 0; s -= p.stride) put(r, source, s);
}

template <class T>
void pack(const GroupedNhwcParams& p, Pass pass, const Windows& windows, const T* weight, int threads,
          float* packed) {
  const int team = paying_threads(threads, windows.vectors.count, weight_count(p) * weight_ns);
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t v = 0; v < windows.vectors.count; ++v)
    pack_vector(p, pass, windows.vectors, v, weight, packed + v * windows.vector_weights);
}

// What becomes of the sums besides that they are stored; all null: nothing.
struct Then {
  float *mean, *variance;
  const Prediction* prediction;
};

// Statistics of all pieces from those of each, [pieces][vectors][mean, squares][width].
void merge_statistics(const Windows& windows, const float* all, const Then& then) {
  const Vectors& vectors = windows.vectors;
  const int64_t count = vectors.channel_count();
  for (int64_t v = 0; v < vectors.count; ++v)
    for (int64_t lane = 0; lane < count; ++lane) {
      double mean = 0, squares = 0, total = 0;
      for (int64_t i = 0; i < windows.pieces.count; ++i) {  // Chan's formula
        const Piece piece(windows.pieces, i);
        const float* const own = all + 2 * (i * vectors.count + v) * vectors.width + lane;
        const auto values = static_cast<double>(piece.images * piece.rows * windows.written.width);
        const double delta = own[0] - mean;
        total += values;
        mean += delta * (values / total);
        squares += own[vectors.width] + delta * delta * (values * (total - values) / total);
      }
      then.mean[vectors.begin(v) + lane] = static_cast<float>(mean);
      then.variance[vectors.begin(v) + lane] = static_cast<float>(squares / total);
    }
}

// Fills [vectors][scale, shift][width].
void fill_affine(const Vectors& vectors, const Prediction& prediction, float* affine) {
  const int64_t count = vectors.channel_count();
  for (int64_t v = 0; v < vectors.count; ++v, affine += 2 * vectors.width)
    for (int64_t lane = 0; lane < vectors.width; ++lane) {
      const ScaleShift one =
          lane < count ? norm_affine(prediction, vectors.begin(v) + lane) : ScaleShift{0.f, 0.f};
      affine[lane] = one.scale;
      affine[vectors.width + lane] = one.shift;
    }
}

void run(const GroupedNhwcParams& p, Pass pass, const void* from, const void* weight, void* workspace,
         int threads, Isa isa, void* to, const Then& then = {}) {
  const GroupedKernels& table = kernels[isa];
  const auto& passes = table.passes[static_cast<int>(p.storage)];
  const auto kernel = pass == Pass::forward ? passes.forward : passes.grad_input;
  const Windows windows(p, pass, table.width);
  const Vectors& vectors = windows.vectors;
  float* const packed = align_line<float>(workspace);
  auto* const orders = reinterpret_cast<int32_t*>(packed + windows.weight_floats);
  float* const behind = packed + windows.weight_floats + windows.order_floats;
  float* const own = align_line<float>(behind + windows.then_floats);
  if (p.weight_dtype == Dtype::float32)
    pack(p, pass, windows, static_cast<const float*>(weight), threads, packed);
  else
    pack(p, pass, windows, static_cast<const Bf16*>(weight), threads, packed);
  vectors.fill_orders(orders);
  if (then.prediction) fill_affine(vectors, *then.prediction, behind);

  const int64_t items = windows.pieces.count * vectors.count;
  const int team = paying_threads(threads, items, pass_ns(p));
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t i = 0; i < items; ++i) {
    const int64_t v = i % vectors.count;
    const Piece piece(windows.pieces, i / vectors.count);
    const auto at = [&](auto* values, const GroupedSide& side, int64_t channel) {
      return values + (piece.image * side.image + channel) * itemsize(p.storage);
    };
    GroupedArgs a{};
    a.from = at(static_cast<const char*>(from), windows.read, vectors.source(v));
    a.to = at(static_cast<char*>(to), windows.written, vectors.begin(v));
    a.read = windows.read, a.written = windows.written;
    a.channels = vectors.channels(orders);
    a.images = piece.images;
    a.kernel = p.kernel, a.stride = p.stride, a.padding = p.padding;
    a.row = piece.row, a.rows = piece.rows;
    a.weight = packed + v * windows.vector_weights;
    a.scratch = own + thread_number() * windows.own_floats;
    if (then.mean) {
      a.mean = behind + 2 * i * vectors.width;
      a.squares = a.mean + vectors.width;
    }
    if (then.prediction) {
      a.scale = behind + 2 * v * vectors.width;
      a.shift = a.scale + vectors.width;
      a.activation = then.prediction->activation;
    }
    kernel(a);
  }
  if (then.mean) merge_statistics(windows, behind, then);
}

// The weight's gradient and its scratch memory, from the front: sums of each part, orders of channels, each
// thread's own.
struct WeightGradient {
  Vectors vectors;
  Pieces pieces;
  int64_t parts;  // runs of pieces whose sums are kept apart
  int64_t vector_sums, part_floats, order_floats, input_floats, own_floats;

  WeightGradient(const GroupedNhwcParams& p, int width)
      : vectors(output_vectors(p, width)),
        pieces(p.batch, p.out_height,
               [&](int64_t rows) { return input_copies(p, rows) + rows * p.out_width * vectors.width; }),
        parts(std::min(pieces.count, divide_up(wanted_items, vectors.count))),
        vector_sums(p.kernel * p.kernel * vectors.sources * width),
        part_floats(vectors.count * vector_sums),
        order_floats(round_to(2 * width, line)),
        input_floats(round_to(pieces.images * input_copies(p, pieces.rows), line)),
        own_floats(input_floats + round_to(pieces.images * pieces.rows * p.out_width * width, line)) {}

  int64_t bytes(int threads) const {
    const int64_t floats = parts * part_floats + order_floats + threads * own_floats;
    return floats * int64_t{sizeof(float)} + scratch_line;
  }

 private:
  static constexpr int64_t line = scratch_line / int64_t{sizeof(float)};
  int64_t input_copies(const GroupedNhwcParams& p, int64_t rows) const {
    return input_rows(p, rows) * p.width * vectors.channels(nullptr).pitch;
  }
};

}  // namespace

int64_t grouped_nhwc_workspace_cpu(const GroupedNhwcParams& p, Pass pass, int threads, Isa isa) {
  if (!check(p, threads, isa).ok() || !has_values(p)) return 0;
  const int width = kernels[isa].width;
  return pass == Pass::grad_weight ? WeightGradient(p, width).bytes(threads)
                                   : Windows(p, pass, width).bytes(threads);
}

Status grouped_nhwc_forward_cpu(const GroupedNhwcParams& p, const void* input, const void* weight,
                                void* workspace, int threads, Isa isa, void* output, float* mean,
                                float* variance) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if ((mean == nullptr) != (variance == nullptr)) return invalid("mean and variance are wanted together");
  if (has_values(p)) {
    run(p, Pass::forward, input, weight, workspace, threads, isa, output, {mean, variance, nullptr});
    return {};
  }
  // Of padding alone, outputs are zero.
  const int64_t values = p.batch * p.out_height * p.out_width * p.c_out;
  std::fill_n(static_cast<char*>(output), values * itemsize(p.storage), char{0});
  if (mean) {
    std::fill_n(mean, p.c_out, values > 0 ? 0.f : std::numeric_limits<float>::quiet_NaN());
    std::copy_n(mean, p.c_out, variance);
  }
  return {};
}

Status grouped_nhwc_predict_cpu(const GroupedNhwcParams& p, const void* input, const void* weight,
                                const Prediction& then, void* workspace, int threads, Isa isa, void* output) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if (const Status status = validate(then, p.c_out); !status.ok()) return status;
  if (then.residual) return unsupported("a grouped convolution takes no residual");
  if (has_values(p))
    run(p, Pass::forward, input, weight, workspace, threads, isa, output, {nullptr, nullptr, &then});
  else if (p.batch * p.out_height * p.out_width * p.c_out > 0)
    return invalid("nothing is convolved");
  return {};
}

Status grouped_nhwc_grad_input_cpu(const GroupedNhwcParams& p, const void* grad_output, const void* weight,
                                   void* workspace, int threads, Isa isa, void* grad_input) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  if (has_values(p))
    run(p, Pass::grad_input, grad_output, weight, workspace, threads, isa, grad_input);
  else
    std::fill_n(static_cast<char*>(grad_input), p.batch * p.height * p.width * p.c_in * itemsize(p.storage),
                char{0});
  return {};
}

Status grouped_nhwc_grad_weight_cpu(const GroupedNhwcParams& p, const void* grad_output, const void* input,
                                    void* workspace, int threads, Isa isa, float* grad_weight) {
  if (const Status status = check(p, threads, isa); !status.ok()) return status;
  const int64_t* const step = p.weight_stride;
  const int64_t k = p.kernel, sources = p.c_in / p.groups;
  if (!has_values(p)) {
    for (int64_t o = 0; o < p.c_out; ++o)
      for (int64_t i = 0; i < sources; ++i)
        for (int64_t tap = 0; tap < k * k; ++tap)
          grad_weight[o * step[0] + i * step[1] + tap / k * step[2] + tap % k * step[3]] = 0.f;
    return {};
  }
  const GroupedKernels& table = kernels[isa];
  const auto kernel = table.passes[static_cast<int>(p.storage)].grad_weight;
  const WeightGradient gradient(p, table.width);
  const Vectors& vectors = gradient.vectors;
  const GroupedSide in_side = input_side(p), out_side = output_side(p);
  float* const sums = align_line<float>(workspace);
  auto* const orders = reinterpret_cast<int32_t*>(sums + gradient.parts * gradient.part_floats);
  float* const own = sums + gradient.parts * gradient.part_floats + gradient.order_floats;
  vectors.fill_orders(orders);

  const int64_t items = gradient.parts * vectors.count;
  const int team = paying_threads(threads, items, pass_ns(p));
#pragma omp parallel for schedule(static) num_threads(team)
  for (int64_t item = 0; item < items; ++item) {
    const int64_t part = item / vectors.count, v = item % vectors.count;
    const int64_t begin = gradient.pieces.count * part / gradient.parts;
    const int64_t end = gradient.pieces.count * (part + 1) / gradient.parts;
    GroupedWeightArgs a{};
    a.grad = out_side, a.read = in_side;
    a.channels = vectors.channels(orders);
    a.kernel = k, a.stride = p.stride, a.padding = p.padding;
    a.scratch = own + thread_number() * gradient.own_floats;
    a.grad_scratch = a.scratch + gradient.input_floats;
    a.sums = sums + part * gradient.part_floats + v * gradient.vector_sums;
    for (int64_t i = begin; i < end; ++i) {
      const Piece piece(gradient.pieces, i);
      const auto at = [&](const void* values, const GroupedSide& side, int64_t channel) {
        return static_cast<const char*>(values) + (piece.image * side.image + channel) * itemsize(p.storage);
      };
      a.grad_output = at(grad_output, out_side, vectors.begin(v));
      a.input = at(input, in_side, vectors.source(v));
      a.images = piece.images, a.row = piece.row, a.rows = piece.rows;
      a.accumulate = i > begin;
      kernel(a);
    }
  }

  const int adding_team = paying_threads(threads, vectors.count, weight_count(p) * weight_ns);
#pragma omp parallel for schedule(static) num_threads(adding_team)
  for (int64_t v = 0; v < vectors.count; ++v) {
    float* const total = sums + v * gradient.vector_sums;
    for (int64_t part = 1; part < gradient.parts; ++part)
      for (int64_t i = 0; i < gradient.vector_sums; ++i) total[i] += total[part * gradient.part_floats + i];
    // What the vector before has is left to it, so that no two threads write the same.
    const int64_t first = vectors.begin(v), count = vectors.channel_count();
    const bool continues = v > 0 && vectors.begin(v - 1) + count > first;
    for (int64_t own = continues ? vectors.begin(v - 1) + count - first : 0; own < count; ++own) {
      const float* from = total + vectors.lane_of(own);
      float* const filter = grad_weight + (first + own) * step[0];
      for (int64_t i = 0; i < sources; ++i)
        for (int64_t r = 0; r < k; ++r) {
          float* const row = filter + i * step[1] + r * step[2];
          for (int64_t s = 0; s < k; ++s, from += vectors.width) row[s * step[3]] = *from;
        }
    }
  }
  return {};
}

}  // namespace lasfast
