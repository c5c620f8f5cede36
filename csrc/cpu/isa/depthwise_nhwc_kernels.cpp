// The passes of depthwise_nhwc_kernels.h. Forward and input gradient are here, the weight's in
// depthwise_nhwc_weight_inl.h.
//
// Both are correlations: output j of an axis sums taps t = 0 .. taps - 1 of inputs first + j * step + t. A
// tile of outputs of one row stays in registers while the rows and columns under it pass, each vector of the
// input loaded (and widened) once per row of taps. Columns in the padding are skipped by branches that repeat
// from row to row, in tiles at a row's ends only.

#include "../depthwise_nhwc_kernels.h"

#include "correlate_inl.h"

namespace {

using lasfast::DepthwiseAhead;
using lasfast::DepthwiseArgs;
using lasfast::DepthwiseKernels;
using lasfast::DepthwiseWeightArgs;

inline int64_t vector_count(int64_t channels) { return (channels + W - 1) / W; }
inline int64_t vector_channel(int64_t v, int64_t channels) {
  return at_least(0, at_most(v * W, channels - W));
}

// Prefetches memory evenly, in `steps` steps.
class Prefetch {
 public:
  Prefetch(const DepthwiseAhead& a, int64_t steps)
      : streams_{{static_cast<const char*>(a.first), a.first_bytes, share(a.first_bytes, steps)},
                 {static_cast<const char*>(a.second), a.second_bytes, share(a.second_bytes, steps)}} {}

  LASFAST_INLINE void step() {
    for (Stream& s : streams_) {
      const int64_t bytes = at_most(s.step, s.left);
      for (int64_t i = 0; i < bytes; i += line) __builtin_prefetch(s.at + i, 0, 2);
      s.at += bytes;
      s.left -= bytes;
    }
  }

 private:
  static constexpr int64_t line = 64;
  struct Stream {
    const char* at;
    int64_t left, step;
  };
  static int64_t share(int64_t bytes, int64_t steps) { return (bytes / line / steps + 1) * line; }
  Stream streams_[2];
};

// One phase of some images, `n` channels of them.
template <class T>
struct Planes {
  const T* input;
  T* output;
  int64_t images, in_image, out_image;                   // pitches of images,
  int64_t in_rows, in_cols, in_pitch, out_pitch, pixel;  // rows and pixels, in elements
  Axis y, x;
  const float* weight;     // [y.taps][x.taps][W]
  Statistics* statistics;  // or null
  const Finish* finish;    // or null
  Prefetch* ahead;
  int n;
};

// `rows` points at column 0 of the first of `count` rows under the taps.
template <int P, int K, int S, bool edge, class T>
LASFAST_INLINE void tile(const Planes<T>& p, const T* rows, int64_t count, const float* weight, int64_t col,
                         T* out, int64_t outputs) {
  const int64_t pixel = p.pixel, cols = p.in_cols;
  Vec sum[P];
  for (int i = 0; i < P; ++i) sum[i] = Vec::zero();
  for (int64_t r = 0; r < count; ++r, rows += p.in_pitch, weight += K * W) {
    Vec w[K];
    for (int s = 0; s < K; ++s) w[s] = Vec::load(weight + s * W);
#pragma GCC unroll 32
    for (int x = 0; x < (P - 1) * S + K; ++x) {
      if (edge && !inside(col + x, cols)) continue;
      const Vec v = Vec::load(rows + (col + x) * pixel);
#pragma GCC unroll 8
      for (int s = 0; s < K; ++s)
        if (x >= s && (x - s) % S == 0 && (x - s) / S < P)
          sum[(x - s) / S] = Vec::fma(v, w[s], sum[(x - s) / S]);
    }
  }
  if (p.finish)
    for (int i = 0; i < P; ++i) sum[i] = (*p.finish)(sum[i]);
  const int64_t step = p.x.out_step * pixel;
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i)
    if (!edge || i < outputs) sum[i].store(out + i * step);
  if (p.statistics) p.statistics->add(sum, at_most(P, outputs));
}

// Calls row(first of the rows under the taps at column 0, how many, weight of the first, output) for each row
// of outputs.
template <class T, class F>
LASFAST_INLINE void for_rows(const Planes<T>& p, F row) {
  for (int64_t i = 0; i < p.images; ++i)
    for (int64_t j = 0; j < p.y.count; ++j) {
      const int64_t first = p.y.first + j * p.y.step;
      const int64_t begin = at_least(0, -first),
                    count = at_least(0, at_most(p.y.taps, p.in_rows - first) - begin);
      p.ahead->step();
      row(p.input + i * p.in_image + (count > 0 ? (first + begin) * p.in_pitch : 0), count,
          p.weight + begin * p.x.taps * W,
          p.output + i * p.out_image + (p.y.out_first + j * p.y.out_step) * p.out_pitch +
              p.x.out_first * p.pixel);
    }
}

template <int K, int S, class T>
void correlate(const Planes<T>& planes) {
  constexpr int wide = 8, narrow = 4;
  const Planes<T> p = planes;  // in registers: what is stored could change the caller's
  const int64_t step = p.x.out_step * p.pixel;
  for_rows(p, [&](const T* rows, int64_t count, const float* weight, T* out) __attribute__((always_inline)) {
    for (int64_t i = 0; i < p.x.count;) {
      const int64_t col = p.x.first + i * S, left = p.x.count - i;
      if (left >= wide && col >= 0 && col + (wide - 1) * S + K <= p.in_cols)
        tile<wide, K, S, false>(p, rows, count, weight, col, out + i * step, wide);
      else if (left > narrow)
        tile<wide, K, S, true>(p, rows, count, weight, col, out + i * step, left);
      else
        tile<narrow, K, S, true>(p, rows, count, weight, col, out + i * step, left);
      i += left > narrow ? wide : narrow;
    }
  });
}

// Takes any kernel, stride and number of channels.
template <class T>
void correlate_plain(const Planes<T>& p) {
  const bool whole = p.n == W;
  for_rows(p, [&](const T* rows, int64_t count, const float* weight, T* out) {
    for (int64_t i = 0; i < p.x.count; ++i, out += p.x.out_step * p.pixel) {
      const int64_t col = p.x.first + i * p.x.step;
      const int64_t begin = at_least(0, -col), end = at_most(p.x.taps, p.in_cols - col);
      Vec sum[1] = {Vec::zero()};
      for (int64_t r = 0; r < count; ++r)
        for (int64_t s = begin; s < end; ++s) {
          const T* from = rows + r * p.in_pitch + (col + s) * p.pixel;
          const Vec v = whole ? Vec::load(from) : Vec::load_partial(from, p.n);
          sum[0] = Vec::fma(v, Vec::load(weight + (r * p.x.taps + s) * W), sum[0]);
        }
      if (p.finish) sum[0] = (*p.finish)(sum[0]);
      if (whole)
        sum[0].store(out);
      else
        sum[0].store_partial(out, p.n);
      if (p.statistics) p.statistics->add(sum, 1);
    }
  });
}

template <class T>
void correlate_any(const Planes<T>& p) {
  const int64_t taps = p.x.taps, step = p.x.step;
  void (*run)(const Planes<T>&) = correlate_plain<T>;
  if (p.n == W && step == 1) {
    if (taps == 1) run = correlate<1, 1, T>;
    if (taps == 2) run = correlate<2, 1, T>;
    if (taps == 3) run = correlate<3, 1, T>;
    if (taps == 4) run = correlate<4, 1, T>;
    if (taps == 5) run = correlate<5, 1, T>;
    if (taps == 7) run = correlate<7, 1, T>;
  }
  if (p.n == W && step == 2) {
    if (taps == 3) run = correlate<3, 2, T>;
    if (taps == 5) run = correlate<5, 2, T>;
    if (taps == 7) run = correlate<7, 2, T>;
  }
  run(p);
}

template <class T>
void forward(const DepthwiseArgs& a) {
  const int64_t channels = a.channels, taps = a.kernel * a.kernel;
  const int64_t in_pitch = a.width * channels, out_pitch = a.out_width * channels;
  const Axis y = forward_axis(a, a.row, a.row + a.rows), x = forward_axis(a, 0, a.out_width);
  Prefetch ahead(a.ahead, vector_count(channels) * a.images * a.rows);
  for (int64_t v = 0; v < vector_count(channels); ++v) {
    const int64_t c = vector_channel(v, channels);
    Statistics statistics;
    statistics.count = 0;
    const Finish finish{a.scale ? Vec::load(a.scale + v * W) : Vec::zero(),
                        a.scale ? Vec::load(a.shift + v * W) : Vec::zero(), Activate(a.activation)};
    correlate_any<T>({static_cast<const T*>(a.from) + c, static_cast<T*>(a.to) + c, a.images,
                      a.height * in_pitch, a.out_height * out_pitch, a.height, a.width, in_pitch, out_pitch,
                      channels, y, x, a.weight + v * taps * W, a.mean ? &statistics : nullptr,
                      a.scale ? &finish : nullptr, &ahead, static_cast<int>(at_most(channels, W))});
    if (a.mean) statistics.store(a.mean + v * W, a.squares + v * W);
  }
}

template <class T>
void grad_input(const DepthwiseArgs& a) {
  const int64_t channels = a.channels, taps = a.kernel * a.kernel;
  const int64_t in_pitch = a.width * channels, out_pitch = a.out_width * channels;
  Prefetch ahead(a.ahead, vector_count(channels) * a.images * a.rows * a.stride);
  for (int64_t v = 0; v < vector_count(channels); ++v) {
    const int64_t c = vector_channel(v, channels);
    const float* weight = a.weight + v * taps * W;
    for (int64_t phase_y = 0; phase_y < a.stride; ++phase_y)
      for (int64_t phase_x = 0; phase_x < a.stride; ++phase_x) {
        const Axis y = gradient_axis(a, phase_y, a.row, a.row + a.rows);
        const Axis x = gradient_axis(a, phase_x, 0, a.width);
        correlate_any<T>({static_cast<const T*>(a.from) + c, static_cast<T*>(a.to) + c, a.images,
                          a.out_height * out_pitch, a.height * in_pitch, a.out_height, a.out_width, out_pitch,
                          in_pitch, channels, y, x, weight, nullptr, nullptr, &ahead,
                          static_cast<int>(at_most(channels, W))});
        weight += y.taps * x.taps * W;
      }
  }
}

}  // namespace

#include "depthwise_nhwc_weight_inl.h"

namespace lasfast {
const DepthwiseKernels LASFAST_TABLE(depthwise_kernels) = {
    W,
    {{forward<float>, grad_input<float>, grad_weight<float>},
     {forward<Bf16>, grad_input<Bf16>, grad_weight<Bf16>}}};
}  // namespace lasfast
