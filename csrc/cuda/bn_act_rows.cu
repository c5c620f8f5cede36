// The passes of bn_act.h over rows. Each reads and writes every tensor once, 16 bytes at a time wherever
// addresses and a narrow residual allow it, and value by value elsewhere. A block works out once what there
// is one of for each channel. Sums are in fp32 within a block.
#include "activation.cuh"
#include "bn_act_kernels.cuh"
#include "bn_act_sums.cuh"
#include "values.cuh"

namespace lasfast {
namespace {

// Rows of each tensor whose loads are under way at once: backward there are two or three tensors.
constexpr int forward_rows = 4, backward_rows = 2;
constexpr int partials = bn_act_partials;

// Values of which each column of a block's tile has one.
struct Columns {
  float mean[reduce_threads], scale[reduce_threads], bias[reduce_threads];
  float grad_mean[reduce_threads], grad_slope[reduce_threads];
};
template <int vector>
struct alignas(16) Shared {
  Columns columns;
  SumsOfThreads<vector> sums;
};

template <int vector>
LASFAST_DEVICE void prepare(const BnActArgs& a, const Part<vector>& part, Columns* columns) {
  const int thread = device::thread_index();
  if (part.answers()) {
    const int64_t c = part.own_column() % a.rows.channels;
    const float inverse = 1.f / device::sqrt(a.var[c] + a.eps);
    columns->mean[thread] = a.mean[c];
    columns->scale[thread] = inverse * (a.weight ? a.weight[c] : 1.f);
    columns->bias[thread] = a.bias ? a.bias[c] : 0.f;
    if (a.sums) {
      const float rows = static_cast<float>(a.sums[2 * a.rows.channels]);
      columns->grad_mean[thread] = static_cast<float>(a.sums[c]) / rows;
      columns->grad_slope[thread] =
          static_cast<float>(a.sums[a.rows.channels + c]) / rows * inverse * inverse;
    }
  }
  device::barrier();
}

// Returns a thread's columns of a table.
template <int vector>
LASFAST_DEVICE Values<vector> own_columns(const float* table, const WideRows& rows) {
  const int at = device::thread_index() % (static_cast<int>(rows.tile) / vector) * vector;
  Values<vector> x;
  LASFAST_UNROLL
  for (int i = 0; i < vector; ++i) x.v[i] = table[at + i];
  return x;
}

// A thread's columns of a tensor [wide rows, pitch], to read or to write.
template <typename T, int vector>
struct Reader {
  const T* from;
  int64_t pitch;

  template <bool whole>
  LASFAST_DEVICE Values<vector> load(int64_t row, int count) const {
    if (whole) return load_values<vector>(from + row * pitch);
    return load_first<vector>(from + row * pitch, count);
  }
};
template <typename T, int vector>
struct Writer {
  T* to;
  int64_t pitch;

  template <bool whole>
  LASFAST_DEVICE void store(int64_t row, const Values<vector>& x, int count) const {
    if (whole)
      store_values(to + row * pitch, x);
    else
      store_first(to + row * pitch, x, count);
  }
};

// Where a thread finds its columns. Where there is no residual, or it ends before them, its reader and writer
// have null.
template <typename T, int vector>
struct Tensors {
  int64_t column, width, narrow;

  LASFAST_DEVICE Tensors(const BnActArgs& a, const Part<vector>& part)
      : column(part.column),
        width(a.rows.width),
        narrow(a.residual_channels == a.rows.channels ? width : a.residual_channels) {}
  LASFAST_DEVICE Reader<T, vector> reader(const void* tensor) const {
    return {static_cast<const T*>(tensor) + column, width};
  }
  LASFAST_DEVICE Writer<T, vector> writer(void* tensor) const {
    return {static_cast<T*>(tensor) + column, width};
  }
  LASFAST_DEVICE Reader<T, vector> narrow_reader(const void* tensor) const {
    return {tensor && column < narrow ? static_cast<const T*>(tensor) + column : nullptr, narrow};
  }
  LASFAST_DEVICE Writer<T, vector> narrow_writer(void* tensor) const {
    return {tensor && column < narrow ? static_cast<T*>(tensor) + column : nullptr, narrow};
  }
};

template <typename T, int vector>
struct Statistics {
  Reader<T, vector> x;
  Values<vector> shift;
  int64_t step;
  TwoSums<vector> sums;

  LASFAST_DEVICE Statistics(const BnActArgs& a, const Part<vector>& part, const float* shift)
      : x(Tensors<T, vector>(a, part).reader(a.x)),
        shift(own_columns<vector>(shift, a.rows)),
        step(part.at_once) {}

  template <int n, bool whole>
  LASFAST_DEVICE void run(int64_t row, int count) {
    Values<vector> values[n];
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) values[r] = x.template load<whole>(row + r * step, count);
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) {
      LASFAST_UNROLL
      for (int i = 0; i < vector; ++i) {
        const float d = whole || i < count ? values[r].v[i] - shift.v[i] : 0.f;
        sums.first[i] += d;
        sums.second[i] += d * d;
      }
    }
  }
};

template <typename T, int vector>
LASFAST_KERNEL(reduce_threads, 2)
statistics(const BnActArgs a) {
  device::wait_for_earlier();
  device::let_next_begin();
  auto* const shared = device::shared<Shared<vector>>();
  const Part<vector> part(a.rows);
  const int thread = device::thread_index();
  float* const shift = shared->columns.mean;
  const int64_t first = part.block * a.rows.block_rows, column = part.own_column();
  const int64_t rows = part.answers() ? a.rows.rows_of(part.block, column) : 0;
  if (part.answers()) {  // the column's first value; an Inf less itself would be a NaN
    const float value =
        rows > 0 ? device::to_float(static_cast<const T*>(a.x)[first * a.rows.width + column]) : 0.f;
    shift[thread] = value - value == 0.f ? value : 0.f;
  }
  device::barrier();
  Statistics<T, vector> pass(a, part, shift);
  for_rows<forward_rows>(a.rows, part, pass);
  double sums[2];
  add_up(a.rows, part, pass.sums, &shared->sums, sums);
  if (rows == 0) return;
  const double above = sums[0] / static_cast<double>(rows);
  float* const partial = a.partial + partials * part.block * a.rows.width + column;
  partial[0] = shift[thread];
  partial[a.rows.width] = static_cast<float>(above);
  partial[2 * a.rows.width] = static_cast<float>(sums[1] - above * sums[0]);
}

// What the passes over a normalized x share: x - mean of `n` rows, and z, to which the activation is applied.
template <typename T, int vector>
struct Normalized {
  Reader<T, vector> x, residual;
  Values<vector> mean, scale, bias;

  LASFAST_DEVICE Normalized(const BnActArgs& a, const Part<vector>& part, const Columns& columns)
      : x(Tensors<T, vector>(a, part).reader(a.x)),
        residual(Tensors<T, vector>(a, part).narrow_reader(a.residual)),
        mean(own_columns<vector>(columns.mean, a.rows)),
        scale(own_columns<vector>(columns.scale, a.rows)),
        bias(own_columns<vector>(columns.bias, a.rows)) {}

  template <int n, bool whole>
  LASFAST_DEVICE void load(int64_t row, int64_t step, int count, Values<vector> (&deviations)[n],
                           Values<vector> (&added)[n]) const {
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) deviations[r] = x.template load<whole>(row + r * step, count);
    if (!residual.from) return;
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) added[r] = residual.template load<whole>(row + r * step, count);
  }
  LASFAST_DEVICE void deviate(Values<vector>& x) const {
    LASFAST_UNROLL
    for (int i = 0; i < vector; ++i) x.v[i] -= mean.v[i];
  }
  LASFAST_DEVICE Values<vector> z(const Values<vector>& deviation, const Values<vector>& added) const {
    Values<vector> z;
    LASFAST_UNROLL
    for (int i = 0; i < vector; ++i) z.v[i] = deviation.v[i] * scale.v[i] + bias.v[i];
    if (!residual.from) return z;
    LASFAST_UNROLL
    for (int i = 0; i < vector; ++i) z.v[i] += added.v[i];
    return z;
  }
};

template <typename T, int vector>
struct Forward {
  Normalized<T, vector> norm;
  Writer<T, vector> y;
  int64_t step;
  Activation activation;

  LASFAST_DEVICE Forward(const BnActArgs& a, const Part<vector>& part, const Columns& columns)
      : norm(a, part, columns),
        y(Tensors<T, vector>(a, part).writer(a.output)),
        step(part.at_once),
        activation(a.activation) {}

  template <int n, bool whole>
  LASFAST_DEVICE void run(int64_t row, int count) {
    Values<vector> x[n], added[n];
    norm.template load<n, whole>(row, step, count, x, added);
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) {
      norm.deviate(x[r]);
      Values<vector> z = norm.z(x[r], added[r]);
      activate(z.v, activation);
      y.template store<whole>(row + r * step, z, count);
    }
  }
};

template <typename T, int vector>
LASFAST_KERNEL(reduce_threads, 2)
forward(const BnActArgs a) {
  device::wait_for_earlier();
  device::let_next_begin();
  auto* const columns = device::shared<Columns>();
  const Part<vector> part(a.rows);
  prepare(a, part, columns);
  // Each channel is a column of the first block of some tile, once; other blocks read the batch's statistics.
  const int64_t c = part.own_column();
  if (a.running.mean && part.block == 0 && part.answers() && c < a.rows.channels)
    a.running.follow(c, a.mean[c], a.var[c]);
  const int64_t step = a.rows.blocks * a.rows.tiles * reduce_threads;
  for (int64_t i = device::block_index() * reduce_threads + device::thread_index(); i < a.counter_count;
       i += step)
    a.counters[i] = 0;
  Forward<T, vector> pass(a, part, *columns);
  for_rows<forward_rows>(a.rows, part, pass);
}

// The gradient of z.
template <typename T, int vector>
struct Gradient {
  Normalized<T, vector> norm;
  Reader<T, vector> from;
  int64_t step;
  Activation activation;
  bool given;  // whether `from` has it; else that has the gradient of y

  LASFAST_DEVICE Gradient(const BnActArgs& a, const Part<vector>& part, const Columns& columns)
      : norm(a, part, columns),
        from(Tensors<T, vector>(a, part).reader(a.dz ? a.dz : a.grad)),
        step(part.at_once),
        activation(a.activation),
        given(a.dz != nullptr) {}

  // Calls use(row, x - mean, dz) for each of `n` rows.
  template <int n, bool whole, class Use>
  LASFAST_DEVICE void run(int64_t row, int count, const Use& use) const {
    Values<vector> x[n], added[n], dz[n];
    norm.template load<n, whole>(row, step, count, x, added);
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) dz[r] = from.template load<whole>(row + r * step, count);
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) {
      norm.deviate(x[r]);
      if (!given) activate_gradient(dz[r].v, norm.z(x[r], added[r]).v, activation);
      use(row + r * step, x[r], dz[r]);
    }
  }
};

template <typename T, int vector>
struct Reduce {
  Gradient<T, vector> gradient;
  Writer<T, vector> to;
  TwoSums<vector> sums;

  LASFAST_DEVICE Reduce(const BnActArgs& a, const Part<vector>& part, const Columns& columns)
      : gradient(a, part, columns), to(Tensors<T, vector>(a, part).narrow_writer(a.output)) {}

  template <int n, bool whole>
  LASFAST_DEVICE void run(int64_t row, int count) {
    gradient.template run<n, whole>(
        row, count, [&](int64_t at, const Values<vector>& deviation, const Values<vector>& dz) {
          if (to.to) to.template store<whole>(at, dz, count);
          LASFAST_UNROLL
          for (int i = 0; i < vector; ++i) {
            if (!whole && i >= count) continue;
            sums.first[i] += dz.v[i];
            sums.second[i] += dz.v[i] * deviation.v[i];
          }
        });
  }
};

template <typename T, int vector>
LASFAST_KERNEL(reduce_threads, 2)
reduce(const BnActArgs a) {
  device::wait_for_earlier();
  device::let_next_begin();
  auto* const shared = device::shared<Shared<vector>>();
  const Part<vector> part(a.rows);
  prepare(a, part, &shared->columns);
  Reduce<T, vector> pass(a, part, shared->columns);
  for_rows<backward_rows>(a.rows, part, pass);
  double sums[2];
  add_up(a.rows, part, pass.sums, &shared->sums, sums);
  if (part.answers()) {
    float* const partial = a.partial + partials * part.block * a.rows.width + part.own_column();
    partial[0] = static_cast<float>(sums[0]);
    partial[a.rows.width] = static_cast<float>(sums[1]);
  }
  static_assert(sizeof(shared->sums) >= block_threads * sizeof(double) &&
                alignof(Shared<vector>) >= alignof(double));
  add_last(a, part, reinterpret_cast<double*>(&shared->sums));
}

template <typename T, int vector>
struct GradX {
  Gradient<T, vector> gradient;
  Writer<T, vector> to;
  Values<vector> mean, slope;
  bool through_statistics;

  LASFAST_DEVICE GradX(const BnActArgs& a, const Part<vector>& part, const Columns& columns)
      : gradient(a, part, columns),
        to(Tensors<T, vector>(a, part).writer(a.output)),
        mean(own_columns<vector>(columns.grad_mean, a.rows)),
        slope(own_columns<vector>(columns.grad_slope, a.rows)),
        through_statistics(a.sums != nullptr) {}

  template <int n, bool whole>
  LASFAST_DEVICE void run(int64_t row, int count) {
    gradient.template run<n, whole>(
        row, count, [&](int64_t at, const Values<vector>& deviation, const Values<vector>& dz) {
          Values<vector> x;
          LASFAST_UNROLL
          for (int i = 0; i < vector; ++i) {
            const float through =
                through_statistics ? dz.v[i] - mean.v[i] - deviation.v[i] * slope.v[i] : dz.v[i];
            x.v[i] = through * gradient.norm.scale.v[i];
          }
          to.template store<whole>(at, x, count);
        });
  }
};

template <typename T, int vector>
LASFAST_KERNEL(reduce_threads, 2)
grad_x(const BnActArgs a) {
  device::wait_for_earlier();
  device::let_next_begin();
  auto* const columns = device::shared<Columns>();
  const Part<vector> part(a.rows);
  prepare(a, part, columns);
  GradX<T, vector> pass(a, part, *columns);
  for_rows<backward_rows>(a.rows, part, pass);
}

template <typename T, int vector>
int launch_of(BnActPass pass, const BnActArgs& a, device::Stream stream, bool early) {
  const auto run = [&](void (*kernel)(BnActArgs), int64_t shared_bytes) {
    return device::launch(kernel, a.rows.launched_blocks(), reduce_threads, shared_bytes, stream, a, early);
  };
  switch (pass) {
    case BnActPass::statistics:
      return run(statistics<T, vector>, sizeof(Shared<vector>));
    case BnActPass::forward:
      return run(forward<T, vector>, sizeof(Columns));
    case BnActPass::sums:
      return run(reduce<T, vector>, sizeof(Shared<vector>));
    default:
      return run(grad_x<T, vector>, sizeof(Columns));
  }
}

}  // namespace

int launch_bn_act(BnActPass pass, Dtype storage, int vector, const BnActArgs& a, device::Stream stream,
                  bool early) {
  if (storage == Dtype::float32)
    return vector == 1 ? launch_of<float, 1>(pass, a, stream, early)
                       : launch_of<float, 4>(pass, a, stream, early);
  return vector == 1 ? launch_of<device::bfloat16, 1>(pass, a, stream, early)
                     : launch_of<device::bfloat16, 8>(pass, a, stream, early);
}

}  // namespace lasfast
