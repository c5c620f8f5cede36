// The passes of grouped_nhwc_kernels.h. Forward and input gradient are here, the weight's in
// grouped_nhwc_weight_inl.h.
//
// A tile of results stays in registers while the taps under it pass: some of one row, and where rows are
// short, of several images, whose sums do not wait for each other. Each input is loaded once for all columns
// of the kernel. Columns in the padding are skipped by branches, in tiles at a row's ends only.

#include "../grouped_nhwc_kernels.h"

#include "correlate_inl.h"
#include "repeat_inl.h"

namespace {

using lasfast::GroupedArgs;
using lasfast::GroupedChannels;
using lasfast::GroupedKernels;
using lasfast::GroupedSide;
using lasfast::GroupedWeightArgs;

constexpr int64_t ahead = 12;  // positions that are prefetched before they are copied: no pattern is foreseen

// Puts channels into the order of lanes, or lanes into that of channels.
struct Order {
  Vec::Lanes lanes;
  bool same;

  LASFAST_INLINE Order(const GroupedChannels& c, const int32_t* order)
      : lanes(Vec::lanes(order)), same(c.groups == 1) {}
  LASFAST_INLINE Vec operator()(Vec v) const { return same ? v : Vec::permute(v, lanes); }
};

// Copies `count` channels of rows low .. high - 1 of some images, [images][rows][columns][pitch].
template <class T>
void copy_rows(const T* from, const GroupedSide& side, int64_t images, int64_t low, int64_t high,
               int64_t count, int64_t pitch, const Order& order, float* to) {
  for (int64_t i = 0; i < images; ++i)
    for (int64_t y = low; y < high; ++y)
      for (int64_t x = 0; x < side.width; ++x, to += pitch) {
        const T* values = from + i * side.image + y * side.row + x * side.column;
        for (int64_t c = 0; c < count; c += W) {
          __builtin_prefetch(values + ahead * side.column + c);
          order(load_n(values + c, static_cast<int>(at_most(count - c, W)))).store(to + c);
        }
      }
}

// The rows of one side that have been copied.
struct Copied {
  const float* values;
  int64_t low, image, row, pitch;  // the first row; floats from one to the next
};

// One phase of a band.
template <class T>
struct Phase {
  Copied in;
  int64_t in_height, in_width;
  T* output;  // of row and column 0
  GroupedSide out;
  int64_t images, depth;
  Axis y, x;
  const float* weight;     // [y.taps][depth][x.taps][W]
  Statistics* statistics;  // or null
  const Finish* finish;    // or null
  Order order;             // of results, from lanes
  int n;
};

// `rows` points at column 0 of the first of `count` rows under the taps, of the first of Q images.
template <int Q, int P, int K, int S, bool edge, int G, class T>
LASFAST_INLINE void tile(const Phase<T>& p, const float* rows, int64_t count, const float* weight,
                         int64_t col, T* out, int64_t outputs) {
  const int64_t pitch = p.in.pitch, image = p.in.image;
  const float* from = rows + col * pitch;
  Vec sum[Q][P];
  for (int q = 0; q < Q; ++q)
    for (int i = 0; i < P; ++i) sum[q][i] = Vec::zero();
  for (int64_t r = 0; r < count; ++r, from += p.in.row)
    for (int64_t d = 0; d < p.depth; ++d, weight += K * W) {
      Vec w[K];
      for (int s = 0; s < K; ++s) w[s] = Vec::load(weight + s * W);
#pragma GCC unroll 32
      for (int x = 0; x < (P - 1) * S + K; ++x) {
        if (edge && !inside(col + x, p.in_width)) continue;
#pragma GCC unroll 8
        for (int q = 0; q < Q; ++q) {
          const Vec v = repeat<G>(from + q * image + x * pitch + d * G);
#pragma GCC unroll 8
          for (int s = 0; s < K; ++s)
            if (x >= s && (x - s) % S == 0 && (x - s) / S < P)
              sum[q][(x - s) / S] = Vec::fma(v, w[s], sum[q][(x - s) / S]);
        }
      }
    }
  const int64_t step = p.x.out_step * p.out.column;
#pragma GCC unroll 8
  for (int q = 0; q < Q; ++q) {
    for (int i = 0; i < P; ++i) sum[q][i] = p.order(sum[q][i]);
    if (p.finish)
      for (int i = 0; i < P; ++i) sum[q][i] = (*p.finish)(sum[q][i]);
#pragma GCC unroll 8
    for (int i = 0; i < P; ++i)
      if (!edge || i < outputs) store_n(sum[q][i], out + q * p.out.image + i * step, p.n);
    if (p.statistics) p.statistics->add(sum[q], at_most(P, outputs));
  }
}

// Calls row(first of the rows under the taps at column 0, how many, weight of the first, result) for each row
// of results of an image.
template <class T, class F>
LASFAST_INLINE void for_rows(const Phase<T>& p, int64_t image, F row) {
  for (int64_t j = 0; j < p.y.count; ++j) {
    const int64_t first = p.y.first + j * p.y.step;
    const int64_t begin = at_least(0, -first);
    const int64_t count = at_least(0, at_most(p.y.taps, p.in_height - first) - begin);
    row(p.in.values + image * p.in.image + (count > 0 ? (first + begin - p.in.low) * p.in.row : 0), count,
        p.weight + begin * p.depth * p.x.taps * W,
        p.output + image * p.out.image + (p.y.out_first + j * p.y.out_step) * p.out.row +
            p.x.out_first * p.out.column);
  }
}

// Computes all results of images `image` .. image + Q - 1, up to P of a row at a time.
template <int Q, int P, int K, int S, int G, class T>
LASFAST_INLINE void correlate_images(const Phase<T>& p, int64_t image) {
  constexpr int few = P < 4 ? P : 4;
  const int64_t step = p.x.out_step * p.out.column;
  for_rows(p, image,
           [&](const float* rows, int64_t count, const float* weight, T* out) __attribute__((always_inline)) {
             for (int64_t i = 0; i < p.x.count;) {
               const int64_t col = p.x.first + i * S, left = p.x.count - i;
               if (P > few && left >= P && col >= 0 && col + (P - 1) * S + K <= p.in_width)
                 tile<Q, P, K, S, false, G>(p, rows, count, weight, col, out + i * step, P);
               else if (P > few && left > few)
                 tile<Q, P, K, S, true, G>(p, rows, count, weight, col, out + i * step, left);
               else
                 tile<Q, few, K, S, true, G>(p, rows, count, weight, col, out + i * step, left);
               i += left > few ? P : few;
             }
           });
}

template <int Q, int P, int K, int S, int G, class T>
void correlate_together(const Phase<T>& phase) {
  const Phase<T> p = phase;  // in registers: what is stored could change the caller's
  int64_t i = 0;
  for (; i + Q <= p.images; i += Q) correlate_images<Q, P, K, S, G>(p, i);
  for (; i < p.images; ++i) correlate_images<1, P, K, S, G>(p, i);
}

template <int K, int S, int G, class T>
void correlate(const Phase<T>& p) {
  if (p.x.count <= 2) return correlate_together<4, 2, K, S, G>(p);
  if (p.x.count <= 4) return correlate_together<2, 4, K, S, G>(p);
  correlate_together<1, 8, K, S, G>(p);
}

// Takes any kernel and stride.
template <int G, class T>
void correlate_plain(const Phase<T>& p) {
  for (int64_t image = 0; image < p.images; ++image)
    for_rows(p, image, [&](const float* rows, int64_t count, const float* weight, T* out) {
      for (int64_t i = 0; i < p.x.count; ++i, out += p.x.out_step * p.out.column) {
        const int64_t col = p.x.first + i * p.x.step;
        const int64_t begin = at_least(0, -col), end = at_most(p.x.taps, p.in_width - col);
        Vec sum[1] = {Vec::zero()};
        for (int64_t r = 0; r < count; ++r)
          for (int64_t d = 0; d < p.depth; ++d)
            for (int64_t s = begin; s < end; ++s)
              sum[0] = Vec::fma(repeat<G>(rows + r * p.in.row + (col + s) * p.in.pitch + d * G),
                                Vec::load(weight + ((r * p.depth + d) * p.x.taps + s) * W), sum[0]);
        sum[0] = p.order(sum[0]);
        if (p.finish) sum[0] = (*p.finish)(sum[0]);
        store_n(sum[0], out, p.n);
        if (p.statistics) p.statistics->add(sum, 1);
      }
    });
}

template <int G, class T>
void correlate_by(const Phase<T>& p) {
  const int64_t taps = p.x.taps, step = p.x.step;
  void (*run)(const Phase<T>&) = correlate_plain<G, T>;
  if (step == 1) {
    if (taps == 1) run = correlate<1, 1, G, T>;
    if (taps == 2) run = correlate<2, 1, G, T>;
    if (taps == 3) run = correlate<3, 1, G, T>;
  }
  if (step == 2 && taps == 3) run = correlate<3, 2, G, T>;
  run(p);
}

template <class T>
void correlate_any(const Phase<T>& p, int64_t groups) {
  groups == 1 ? correlate_by<1>(p) : groups == 2 ? correlate_by<2>(p) : correlate_by<4>(p);
}

// Copies the rows that taps from `low` to `high` reach, and returns them.
template <class T>
Copied copied(const void* from, const GroupedSide& side, int64_t images, int64_t low, int64_t high,
              int64_t count, int64_t pitch, const Order& order, float* scratch) {
  low = at_least(0, low);
  high = at_least(low, at_most(side.height, high));
  copy_rows(static_cast<const T*>(from), side, images, low, high, count, pitch, order, scratch);
  return {scratch, low, (high - low) * side.width * pitch, side.width * pitch, pitch};
}

template <class T>
Phase<T> phase_of(const GroupedArgs& a, const Copied& in, const Axis& y, const Axis& x, const float* weight,
                  Statistics* statistics, const Finish* finish) {
  return {in,
          a.read.height,
          a.read.width,
          static_cast<T*>(a.to),
          a.written,
          a.images,
          a.channels.depth,
          y,
          x,
          weight,
          statistics,
          finish,
          Order(a.channels, a.channels.to_channels),
          static_cast<int>(a.channels.count)};
}

template <class T>
void forward(const GroupedArgs& a) {
  const Axis y = forward_axis(a, a.row, a.row + a.rows), x = forward_axis(a, 0, a.written.width);
  const Copied in =
      copied<T>(a.from, a.read, a.images, y.first, y.first + (y.count - 1) * a.stride + y.taps,
                a.channels.reads, a.channels.pitch, Order(a.channels, a.channels.to_lanes), a.scratch);
  Statistics statistics;
  statistics.count = 0;
  const Finish finish{a.scale ? Vec::load(a.scale) : Vec::zero(), a.scale ? Vec::load(a.shift) : Vec::zero(),
                      Activate(a.activation)};
  correlate_any(
      phase_of<T>(a, in, y, x, a.weight, a.mean ? &statistics : nullptr, a.scale ? &finish : nullptr),
      a.channels.groups);
  if (a.mean) statistics.store(a.mean, a.squares);
}

template <class T>
void grad_input(const GroupedArgs& a) {
  int64_t low = a.read.height, high = 0;
  for (int64_t phase = 0; phase < a.stride; ++phase) {
    const Axis y = gradient_axis(a, phase, a.row, a.row + a.rows);
    low = at_most(low, y.first);
    high = at_least(high, y.first + y.count - 1 + y.taps);
  }
  const Copied in = copied<T>(a.from, a.read, a.images, low, high, a.channels.reads, a.channels.pitch,
                              Order(a.channels, a.channels.to_lanes), a.scratch);
  const float* weight = a.weight;
  for (int64_t phase_y = 0; phase_y < a.stride; ++phase_y)
    for (int64_t phase_x = 0; phase_x < a.stride; ++phase_x) {
      const Axis y = gradient_axis(a, phase_y, a.row, a.row + a.rows);
      const Axis x = gradient_axis(a, phase_x, 0, a.written.width);
      correlate_any(phase_of<T>(a, in, y, x, weight, nullptr, nullptr), a.channels.groups);
      weight += y.taps * a.channels.depth * x.taps * W;
    }
}

}  // namespace

#include "grouped_nhwc_weight_inl.h"

namespace lasfast {
const GroupedKernels LASFAST_TABLE(grouped_kernels) = {
    W,
    {{forward<float>, grad_input<float>, grad_weight<float>},
     {forward<Bf16>, grad_input<Bf16>, grad_weight<Bf16>}}};
}  // namespace lasfast
