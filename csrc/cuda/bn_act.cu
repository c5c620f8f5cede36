// The passes of bn_act.h on CUDA: as many reads and writes as there are tensors, 16 bytes at a time wherever
// addresses and a narrow residual allow it, value by value elsewhere. What there is one of per channel is
// worked out once per block. Sums go through reduce.cuh: in fp32 within a block, in double beyond it.
#include "activation.cuh"
#include "lasfast/bn_act.h"
#include "reduce.cuh"
#include "values.cuh"

namespace lasfast {
namespace {

// Rows of each tensor whose loads are under way at once: backward there are two or three tensors.
constexpr int forward_rows = 4, backward_rows = 2;

// What a block leaves of each column: of statistics the shift, the mean above it and squared deviations from
// that; of gradients two sums.
constexpr int partials = 3;

struct Args {
  WideRows rows;
  int64_t residual_channels;  // 0: none
  int32_t activation;
  float eps;
  const void *x, *grad, *residual, *dz;  // dz may be null: computed from grad, x and residual
  const float *mean, *var, *weight, *bias;
  const double* sums;  // null where mean and var are constants
  float* partial;      // [blocks, partials, width]
  void* output;
};

// One value per column of a block's tile.
struct Columns {
  float mean[reduce_threads], scale[reduce_threads], bias[reduce_threads];
  float grad_mean[reduce_threads], grad_slope[reduce_threads];
};
template <int vector>
struct Shared {
  Columns columns;
  SumsOfThreads<vector> sums;
};

template <int vector>
LASFAST_DEVICE void prepare(const Args& a, const Part<vector>& part, Columns* columns) {
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

// A thread's columns of a table.
template <int vector>
LASFAST_DEVICE Values<vector> own_columns(const float* table, const WideRows& rows) {
  const int at = device::thread_index() % (static_cast<int>(rows.tile) / vector) * vector;
  Values<vector> x;
  LASFAST_UNROLL
  for (int i = 0; i < vector; ++i) x.v[i] = table[at + i];
  return x;
}

// A thread's columns of a tensor [wide rows, pitch].
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

// Where a thread finds its columns. A residual may end before them; then both are null, as where there is
// none.
template <typename T, int vector>
struct Tensors {
  int64_t column, width, narrow;

  LASFAST_DEVICE Tensors(const Args& a, const Part<vector>& part)
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

  LASFAST_DEVICE Statistics(const Args& a, const Part<vector>& part, const float* shift)
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
statistics(const Args a) {
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

// What the passes over a normalized x share. Of `n` rows: x - mean, and z, what the activation is taken of.
template <typename T, int vector>
struct Normalized {
  Reader<T, vector> x, residual;
  Values<vector> mean, scale, bias;

  LASFAST_DEVICE Normalized(const Args& a, const Part<vector>& part, const Columns& columns)
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
  int32_t activation;

  LASFAST_DEVICE Forward(const Args& a, const Part<vector>& part, const Columns& columns)
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
forward(const Args a) {
  auto* const columns = device::shared<Columns>();
  const Part<vector> part(a.rows);
  prepare(a, part, columns);
  Forward<T, vector> pass(a, part, *columns);
  for_rows<forward_rows>(a.rows, part, pass);
}

template <typename T, int vector>
struct Reduce {
  Normalized<T, vector> norm;
  Reader<T, vector> grad;
  Writer<T, vector> dz;
  int64_t step;
  int32_t activation;
  TwoSums<vector> sums;

  LASFAST_DEVICE Reduce(const Args& a, const Part<vector>& part, const Columns& columns)
      : norm(a, part, columns),
        grad(Tensors<T, vector>(a, part).reader(a.grad)),
        dz(Tensors<T, vector>(a, part).narrow_writer(a.output)),
        step(part.at_once),
        activation(a.activation) {}

  template <int n, bool whole>
  LASFAST_DEVICE void run(int64_t row, int count) {
    Values<vector> x[n], added[n], gradients[n];
    norm.template load<n, whole>(row, step, count, x, added);
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) gradients[r] = grad.template load<whole>(row + r * step, count);
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) {
      norm.deviate(x[r]);
      activate_gradient(gradients[r].v, norm.z(x[r], added[r]).v, activation);
      if (dz.to) dz.template store<whole>(row + r * step, gradients[r], count);
      LASFAST_UNROLL
      for (int i = 0; i < vector; ++i) {
        if (!whole && i >= count) continue;
        sums.first[i] += gradients[r].v[i];
        sums.second[i] += gradients[r].v[i] * x[r].v[i];
      }
    }
  }
};

template <typename T, int vector>
LASFAST_KERNEL(reduce_threads, 2)
reduce(const Args a) {
  auto* const shared = device::shared<Shared<vector>>();
  const Part<vector> part(a.rows);
  prepare(a, part, &shared->columns);
  Reduce<T, vector> pass(a, part, shared->columns);
  for_rows<backward_rows>(a.rows, part, pass);
  double sums[2];
  add_up(a.rows, part, pass.sums, &shared->sums, sums);
  if (!part.answers()) return;
  float* const partial = a.partial + partials * part.block * a.rows.width + part.own_column();
  partial[0] = static_cast<float>(sums[0]);
  partial[a.rows.width] = static_cast<float>(sums[1]);
}

template <typename T, int vector>
struct GradX {
  Normalized<T, vector> norm;
  Reader<T, vector> grad, dz;
  Writer<T, vector> grad_x;
  Values<vector> mean, slope;
  int64_t step;
  int32_t activation;
  bool given, through_statistics;

  LASFAST_DEVICE GradX(const Args& a, const Part<vector>& part, const Columns& columns)
      : norm(a, part, columns),
        grad(Tensors<T, vector>(a, part).reader(a.dz ? a.dz : a.grad)),
        grad_x(Tensors<T, vector>(a, part).writer(a.output)),
        mean(own_columns<vector>(columns.grad_mean, a.rows)),
        slope(own_columns<vector>(columns.grad_slope, a.rows)),
        step(part.at_once),
        activation(a.activation),
        given(a.dz != nullptr),
        through_statistics(a.sums != nullptr) {}

  template <int n, bool whole>
  LASFAST_DEVICE void run(int64_t row, int count) {
    Values<vector> x[n], added[n], gradients[n];
    norm.template load<n, whole>(row, step, count, x, added);
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) gradients[r] = grad.template load<whole>(row + r * step, count);
    LASFAST_UNROLL
    for (int r = 0; r < n; ++r) {
      norm.deviate(x[r]);
      if (!given) activate_gradient(gradients[r].v, norm.z(x[r], added[r]).v, activation);
      LASFAST_UNROLL
      for (int i = 0; i < vector; ++i) {
        float v = gradients[r].v[i];
        if (through_statistics) v = v - mean.v[i] - x[r].v[i] * slope.v[i];
        gradients[r].v[i] = v * norm.scale.v[i];
      }
      grad_x.template store<whole>(row + r * step, gradients[r], count);
    }
  }
};

template <typename T, int vector>
LASFAST_KERNEL(reduce_threads, 2)
grad_x(const Args a) {
  auto* const columns = device::shared<Columns>();
  const Part<vector> part(a.rows);
  prepare(a, part, columns);
  GradX<T, vector> pass(a, part, *columns);
  for_rows<backward_rows>(a.rows, part, pass);
}

// ---- second stages

struct MergeArgs {
  WideRows rows;
  double values;         // of each channel
  const float* partial;  // [blocks, partials, width]
  const float* var;
  float eps;
  double* sums;           // [2 * channels + 1]
  float *first, *second;  // mean and var, or the gradients of bias and weight, which may be null
};

// Chan's formula for all parts at once: deviations from the mean of all are those from the parts' own means,
// and of these means from that.
LASFAST_KERNEL(reduce_threads, 2)
merge_statistics(const MergeArgs a) {
  const Merge merge(a.rows, device::shared<double>());
  const auto count = [&](int64_t block, int64_t column) {
    return static_cast<double>(a.rows.rows_of(block, column));
  };
  const auto partial = [&](int64_t block, int which, int64_t column) {
    return static_cast<double>(a.partial[(partials * block + which) * a.rows.width + column]);
  };
  const auto mean_of = [&](int64_t block, int64_t column) {
    return partial(block, 0, column) + partial(block, 1, column);
  };
  const double sum = merge.sum([&](int64_t block, int64_t column) {
    const double n = count(block, column);
    return n > 0.0 ? n * mean_of(block, column) : 0.0;
  });
  const double mean = a.values > 0.0 ? sum / a.values : 0.0;
  const double deviations = merge.sum([&](int64_t block, int64_t column) {
    const double n = count(block, column);
    if (n == 0.0) return 0.0;
    const double apart = mean_of(block, column) - mean;
    return partial(block, 2, column) + n * apart * apart;
  });
  if (!merge.answers()) return;
  const double variance = a.values > 0.0 ? deviations / a.values : 0.0;
  a.first[merge.channel] = static_cast<float>(mean);
  a.second[merge.channel] = static_cast<float>(variance < 0.0 ? 0.0 : variance);
}

LASFAST_KERNEL(reduce_threads, 2)
merge_sums(const MergeArgs a) {
  const Merge merge(a.rows, device::shared<double>());
  double sums[2];
  for (int k = 0; k < 2; ++k)
    sums[k] = merge.sum([&](int64_t block, int64_t column) {
      return static_cast<double>(a.partial[(partials * block + k) * a.rows.width + column]);
    });
  if (!merge.answers()) return;
  const int64_t c = merge.channel, channels = a.rows.channels;
  a.sums[c] = sums[0];
  a.sums[channels + c] = sums[1];
  if (c == 0) a.sums[2 * channels] = a.values;
  if (a.first) a.first[c] = static_cast<float>(sums[0]);
  if (a.second)
    a.second[c] = static_cast<float>(
        sums[1] / device::sqrt(static_cast<double>(a.var[c]) + static_cast<double>(a.eps)));
}

struct Running {
  int64_t channels;
  double momentum, unbiased;
  const float *mean, *var;
  float *running_mean, *running_var;
};

LASFAST_KERNEL(reduce_threads, 2)
follow(const Running a) {
  const int64_t c = device::block_index() * reduce_threads + device::thread_index();
  if (c >= a.channels) return;
  a.running_mean[c] = static_cast<float>((1.0 - a.momentum) * static_cast<double>(a.running_mean[c]) +
                                         a.momentum * static_cast<double>(a.mean[c]));
  a.running_var[c] = static_cast<float>((1.0 - a.momentum) * static_cast<double>(a.running_var[c]) +
                                        a.unbiased * static_cast<double>(a.var[c]));
}

// ---- the host's side

constexpr int merge_shared_bytes = reduce_threads * int{sizeof(double)};

Status launched(int error) {
  if (error == 0) return {};
  return {Code::device_error, error, "CUDA launch failed"};
}

int values_per_16(Storage storage) { return storage == Storage::float32 ? 4 : 8; }

// Values of a vector for these tensors: what 16 bytes hold, or one.
int vector_for(const BnActParams& p, std::initializer_list<const void*> tensors) {
  const int vector = values_per_16(p.storage);
  for (const void* tensor : tensors)
    if (reinterpret_cast<uintptr_t>(tensor) % 16 != 0) return 1;
  const bool narrow = p.residual_channels != 0 && p.residual_channels != p.channels;
  return narrow && (p.channels % vector != 0 || p.residual_channels % vector != 0) ? 1 : vector;
}

// Calls run(T{}, vector) with the type of the values, and the vector as a constant.
template <class Run>
int dispatch(Storage storage, int vector, Run run) {
  constexpr std::integral_constant<int, 1> one;
  if (storage == Storage::float32)
    return vector == 1 ? run(float{}, one) : run(float{}, std::integral_constant<int, 4>{});
  return vector == 1 ? run(device::bfloat16{}, one)
                     : run(device::bfloat16{}, std::integral_constant<int, 8>{});
}

Args normalizing(const BnActParams& p, const WideRows& rows, const void* x, const float* mean,
                 const float* var, const float* weight, const float* bias, const void* residual) {
  Args a{rows};
  a.residual_channels = p.residual_channels;
  a.activation = static_cast<int32_t>(p.activation);
  a.eps = p.eps;
  a.x = x;
  a.mean = mean;
  a.var = var;
  a.weight = weight;
  a.bias = bias;
  a.residual = residual;
  return a;
}

// The workspace: sums, then partial sums.
int64_t sums_bytes(int64_t channels) { return (2 * channels + 2) / 2 * 2 * int64_t{sizeof(double)}; }
double* sums_in(void* workspace) { return static_cast<double*>(workspace); }
float* partial_in(void* workspace, int64_t channels) {
  return reinterpret_cast<float*>(static_cast<char*>(workspace) + sums_bytes(channels));
}

int launch_sums(const BnActParams& p, const void* grad, const void* x, const float* mean, const float* var,
                const float* weight, const float* bias, const void* residual, void* workspace,
                device::Stream stream, double* sums, float* grad_weight, float* grad_bias,
                void* grad_residual) {
  const int vector = vector_for(p, {grad, x, residual, grad_residual});
  Args a = normalizing(p, WideRows(p.rows, p.channels, vector), x, mean, var, weight, bias, residual);
  a.grad = grad;
  a.partial = partial_in(workspace, p.channels);
  a.output = grad_residual;
  if (p.rows > 0) {
    const int error = dispatch(p.storage, vector, [&](auto value, auto size) {
      return device::launch(reduce<decltype(value), size>, a.rows.launched_blocks(), reduce_threads,
                            sizeof(Shared<size>), stream, a);
    });
    if (error != 0) return error;
  }
  const MergeArgs merge{a.rows,     static_cast<double>(p.rows), a.partial, var, p.eps, sums, grad_bias,
                        grad_weight};
  return device::launch(merge_sums, Merge::blocks(a.rows), reduce_threads, merge_shared_bytes, stream, merge);
}

int launch_grad_x(const BnActParams& p, const void* grad, const void* x, const float* mean, const float* var,
                  const float* weight, const float* bias, const void* residual, const void* dz,
                  const double* sums, device::Stream stream, void* grad_x_) {
  if (p.rows == 0) return 0;
  if (dz) residual = nullptr;
  const int vector = vector_for(p, {grad, x, residual, dz, grad_x_});
  Args a = normalizing(p, WideRows(p.rows, p.channels, vector), x, mean, var, weight, bias, residual);
  a.grad = grad;
  a.dz = dz;
  a.sums = p.batch_statistics ? sums : nullptr;
  a.output = grad_x_;
  return dispatch(p.storage, vector, [&](auto value, auto size) {
    return device::launch(grad_x<decltype(value), size>, a.rows.launched_blocks(), reduce_threads,
                          sizeof(Columns), stream, a);
  });
}

}  // namespace

int64_t bn_act_workspace_cuda(const BnActParams& p) {
  if (!validate(p).ok()) return 0;
  int64_t most = 0;
  for (const int vector : {1, values_per_16(Storage::float32), values_per_16(Storage::bfloat16)})
    most = std::max(most, WideRows(p.rows, p.channels, vector).partial_sums());
  return sums_bytes(p.channels) + partials * most * int64_t{sizeof(float)};
}

Status batch_statistics_cuda(const BnActParams& p, const void* x, void* workspace, int device, void* stream,
                             float* mean, float* var) {
  if (const Status status = validate(p); !status.ok()) return status;
  const device::Use use(device);
  if (use.error() != 0) return launched(use.error());
  const auto queue = static_cast<device::Stream>(stream);
  const int vector = vector_for(p, {x});
  Args a{WideRows(p.rows, p.channels, vector)};
  a.x = x;
  a.partial = partial_in(workspace, p.channels);
  if (p.rows > 0) {
    const int error = dispatch(p.storage, vector, [&](auto value, auto size) {
      return device::launch(statistics<decltype(value), size>, a.rows.launched_blocks(), reduce_threads,
                            sizeof(Shared<size>), queue, a);
    });
    if (error != 0) return launched(error);
  }
  const MergeArgs merge{a.rows, static_cast<double>(p.rows), a.partial, nullptr, 0.f, nullptr, mean, var};
  return launched(device::launch(merge_statistics, Merge::blocks(a.rows), reduce_threads, merge_shared_bytes,
                                 queue, merge));
}

Status update_running_cuda(int64_t rows, int64_t channels, const float* mean, const float* var,
                           double momentum, int device, void* stream, float* running_mean,
                           float* running_var) {
  if (const Status status = validate_running(rows, channels); !status.ok()) return status;
  const device::Use use(device);
  if (use.error() != 0) return launched(use.error());
  const double unbiased = momentum * (static_cast<double>(rows) / static_cast<double>(rows - 1));
  const Running a{channels, momentum, unbiased, mean, var, running_mean, running_var};
  return launched(device::launch(follow, (channels + reduce_threads - 1) / reduce_threads, reduce_threads, 0,
                                 static_cast<device::Stream>(stream), a));
}

Status bn_act_forward_cuda(const BnActParams& p, const void* x, const float* mean, const float* var,
                           const float* weight, const float* bias, const void* residual, void*, int device,
                           void* stream, void* y) {
  if (const Status status = validate(p); !status.ok()) return status;
  if (p.rows == 0) return {};
  const device::Use use(device);
  if (use.error() != 0) return launched(use.error());
  const int vector = vector_for(p, {x, residual, y});
  Args a = normalizing(p, WideRows(p.rows, p.channels, vector), x, mean, var, weight, bias, residual);
  a.output = y;
  return launched(dispatch(p.storage, vector, [&](auto value, auto size) {
    return device::launch(forward<decltype(value), size>, a.rows.launched_blocks(), reduce_threads,
                          sizeof(Columns), static_cast<device::Stream>(stream), a);
  }));
}

Status bn_act_sums_cuda(const BnActParams& p, const void* grad, const void* x, const float* mean,
                        const float* var, const float* weight, const float* bias, const void* residual,
                        void* workspace, int device, void* stream, double* sums, float* grad_weight,
                        float* grad_bias, void* grad_residual) {
  if (const Status status = validate(p); !status.ok()) return status;
  const device::Use use(device);
  if (use.error() != 0) return launched(use.error());
  return launched(launch_sums(p, grad, x, mean, var, weight, bias, residual, workspace,
                              static_cast<device::Stream>(stream), sums, grad_weight, grad_bias,
                              grad_residual));
}

Status bn_act_grad_x_cuda(const BnActParams& p, const void* grad, const void* x, const float* mean,
                          const float* var, const float* weight, const float* bias, const void* residual,
                          const void* dz, const double* sums, void*, int device, void* stream,
                          void* grad_x_) {
  if (const Status status = validate(p); !status.ok()) return status;
  const device::Use use(device);
  if (use.error() != 0) return launched(use.error());
  return launched(launch_grad_x(p, grad, x, mean, var, weight, bias, residual, dz, sums,
                                static_cast<device::Stream>(stream), grad_x_));
}

Status bn_act_backward_cuda(const BnActParams& p, const void* grad, const void* x, const float* mean,
                            const float* var, const float* weight, const float* bias, const void* residual,
                            void* workspace, int device, void* stream, void* grad_x_, float* grad_weight,
                            float* grad_bias, void* grad_residual) {
  if (const Status status = validate(p); !status.ok()) return status;
  const device::Use use(device);
  if (use.error() != 0) return launched(use.error());
  const auto queue = static_cast<device::Stream>(stream);
  double* const sums = sums_in(workspace);
  if (grad_weight || grad_bias || grad_residual || (p.batch_statistics && grad_x_)) {
    const int error = launch_sums(p, grad, x, mean, var, weight, bias, residual, workspace, queue, sums,
                                  grad_weight, grad_bias, grad_residual);
    if (error != 0) return launched(error);
  }
  if (!grad_x_) return {};
  const void* const dz = p.residual_channels == p.channels ? grad_residual : nullptr;
  return launched(launch_grad_x(p, grad, x, mean, var, weight, bias, residual, dz, sums, queue, grad_x_));
}

}  // namespace lasfast
