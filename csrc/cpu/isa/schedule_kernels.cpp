// The operations of schedule_kernels.h.

#include "../schedule_kernels.h"

#include "activations_inl.h"
#include "product_inl.h"
#include "target.h"

namespace {

using lasfast::Affine;
using lasfast::Bf16;
using lasfast::Cells;
using lasfast::ItemArgs;
using lasfast::max_kernel;
using lasfast::run_length;
using lasfast::TapRange;
using lasfast::Task;

// Applies norm and activation to W channels.
struct Transform {
  Vec scale, shift;
  Activate activate;

  LASFAST_INLINE Transform(const Affine& affine, int64_t c, int n)
      : scale(Vec::set(1.f)), shift(Vec::zero()), activate(affine.activation) {
    if (affine.scale) {
      scale = load_n(affine.scale + c, n);
      shift = load_n(affine.shift + c, n);
    }
  }
  LASFAST_INLINE Vec norm(Vec v) const { return Vec::fma(v, scale, shift); }
  LASFAST_INLINE Vec operator()(Vec v) const { return activate(norm(v)); }
};

// The sums of some cells of one image: `count` vectors, `pitch` floats apart. They go to positions that lie
// `step` elements apart.
struct Run {
  const float* acc;
  int64_t pitch, count, step;
};

template <bool whole, bool clamp, class U>
LASFAST_INLINE void finish_run(const Run& r, const Vec& bias, const Transform& out, int n, U* output) {
  for (int64_t i = 0; i < r.count; ++i) {
    const Vec v = out.norm(Vec::add(Vec::load(r.acc + i * r.pitch), bias));
    store_n(out.activate.template run<clamp>(v), output + i * r.step, whole ? W : n);
  }
}

// The same where whole vectors are added as they are, `step` elements apart.
template <class T, class U>
LASFAST_INLINE void finish_sum(const Run& r, const Vec& bias, const Transform& out, const T* other,
                               int64_t step, U* output) {
  for (int64_t i = 0; i < r.count; ++i) {
    const Vec v = out.norm(Vec::add(Vec::load(r.acc + i * r.pitch), bias));
    out.activate.template run<true>(Vec::add(v, Vec::load(other + i * step))).store(output + i * r.step);
  }
}

// Does what follows op(...): acc is [count, pitch] floats, W channels from c on of `count` cells from `cell`
// on, in cells that are interleaved as a.cells.group says and begin at output position `position`. `start`
// marks the item's first cells: their first value is what its statistics are shifted by.
template <class T, class U>
void finish(const ItemArgs& a, const float* acc, int64_t pitch, int64_t position, int64_t cell, int64_t count,
            int64_t c, bool start) {
  const int64_t channels = a.out_channels, group = a.cells.group;
  const int n = static_cast<int>(at_most(channels - c, W));
  const int64_t image = a.out_height * a.out_width * channels;
  const Vec bias = a.bias ? load_n(a.bias + c, n) : Vec::zero();
  const Transform out(a.out, c, n);

  const int64_t padded = (channels + W - 1) / W * W;
  float *shifts = a.sums + c, *sums = shifts + padded, *squares = sums + padded;
  Vec shift = Vec::zero(), sum = Vec::zero(), square = Vec::zero();
  if (a.partial) {
    if (start) {
      Vec::add(Vec::load(acc), bias).store(shifts);
      Vec::zero().store(sums);
      Vec::zero().store(squares);
    }
    shift = Vec::load(shifts);
  }
  const int m = static_cast<int>(a.other ? at_most(a.other_channels - c, n) : 0);  // may be negative

  const int64_t p0 =
      group == 1 ? position + cell : position + static_cast<uint32_t>(cell) / static_cast<uint32_t>(group);
  const int64_t g0 = group == 1 ? 0 : static_cast<uint32_t>(cell) % static_cast<uint32_t>(group);
  for (int64_t q = 0; q < group && q < count; ++q) {
    const int64_t g = g0 + q < group ? g0 + q : g0 + q - group;
    if (g >= a.images) continue;
    const int64_t p = p0 + (g0 + q >= group);
    const Run run = {acc + q * pitch, group * pitch,
                     group == 1 ? count
                                : (static_cast<uint32_t>(count - q) + static_cast<uint32_t>(group) - 1) /
                                      static_cast<uint32_t>(group),
                     channels};
    U* output = static_cast<U*>(a.output) + c + g * image + p * channels;
    if (a.partial) {
      for (int64_t i = 0; i < run.count; ++i) {
        const Vec v = Vec::add(Vec::load(run.acc + i * run.pitch), bias);
        store_n(v, output + i * channels, n);
        const Vec d = Vec::sub(v, shift);
        sum = Vec::add(sum, d);
        square = Vec::fma(d, d, square);
      }
    } else if (m <= 0) {
      if (!out.activate.clamps())
        finish_run<false, false>(run, bias, out, n, output);
      else if (n == W)
        finish_run<true, true>(run, bias, out, n, output);
      else
        finish_run<false, true>(run, bias, out, n, output);
    } else {
      const Transform with(a.with, c, m);
      const T* other =
          static_cast<const T*>(a.other) + c + (g * a.out_height * a.out_width + p) * a.other_channels;
      if (m == W && !a.with.scale && a.with.activation == Activation::none && out.activate.clamps()) {
        finish_sum(run, bias, out, other, a.other_channels, output);
        continue;
      }
      for (int64_t i = 0; i < run.count; ++i) {
        Vec x = with(load_n(other + i * a.other_channels, m));
        if (m < W) {  // an activation need not map the missing channels to zero
          float some[W];
          x.store(some);
          x = Vec::load_partial(some, m);
        }
        const Vec v = out.norm(Vec::add(Vec::load(run.acc + i * run.pitch), bias));
        store_n(out.activate(Vec::add(v, x)), output + i * channels, n);
      }
    }
  }
  if (a.partial) {
    Vec::add(Vec::load(sums), sum).store(sums);
    Vec::add(Vec::load(squares), square).store(squares);
  }
}

// Turns sums into means and squared deviations.
inline void close_statistics(const ItemArgs& a) {
  const int64_t padded = (a.out_channels + W - 1) / W * W;
  const float *shift = a.sums, *sum = shift + padded, *square = sum + padded;
  const float count = static_cast<float>(a.images * a.out_height * a.out_width);
  for (int64_t c = 0; c < a.out_channels; ++c) {
    const float mean = sum[c] / count;
    const float deviations = square[c] - sum[c] * mean;
    a.partial[c] = shift[c] + mean;
    a.partial[a.out_channels + c] = deviations < 0.f ? 0.f : deviations;
  }
}

// ---- pooling, sums, the mean over all positions

// Calls value(image, position, c, n) -> Vec for all outputs of an item of single images.
template <class T, class U, class F>
inline void for_outputs(const ItemArgs& a, F value) {
  float acc[run_length * W];
  const int64_t positions = a.out_height * a.out_width;
  for (int64_t p = 0; p < positions; p += run_length) {
    const int64_t count = at_most(positions - p, run_length);
    for (int64_t c = 0; c < a.out_channels; c += W) {
      const int n = static_cast<int>(at_most(a.out_channels - c, W));
      const Transform in(a.in, c, n);
      for (int64_t q = 0; q < count; ++q) value(p + q, c, n, in).store(acc + q * W);
      finish<T, U>(a, acc, W, p, 0, count, c, p == 0);
    }
  }
}

template <class T, class U>
void combine(const ItemArgs& a) {
  const T* input = static_cast<const T*>(a.input);
  for_outputs<T, U>(a, [&](int64_t p, int64_t c, int n, const Transform& in) {
    return in(load_n(input + p * a.in_channels + c, n));
  });
}

template <class T, class U>
void pool(const ItemArgs& a, bool largest) {
  const T* input = static_cast<const T*>(a.input);
  for_outputs<T, U>(a, [&](int64_t p, int64_t c, int n, const Transform& in) {
    const int64_t y = p / a.out_width * a.stride - a.padding, x = p % a.out_width * a.stride - a.padding;
    const int64_t top = y < 0 ? 0 : y, left = x < 0 ? 0 : x;
    const int64_t bottom = at_most(y + a.kernel, a.in_height), right = at_most(x + a.kernel, a.in_width);
    Vec v = largest ? Vec::set(-__builtin_inff()) : Vec::zero();
    for (int64_t r = top; r < bottom; ++r)
      for (int64_t s = left; s < right; ++s) {
        const Vec u = in(load_n(input + (r * a.in_width + s) * a.in_channels + c, n));
        v = largest ? Vec::nan_or(v, Vec::max(v, u)) : Vec::add(v, u);
      }
    const float count = static_cast<float>((bottom - top) * (right - left));
    return largest ? v : Vec::div(v, Vec::set(count));
  });
}

template <class T, class U>
void global_pool(const ItemArgs& a) {
  const T* input = static_cast<const T*>(a.input);
  const int64_t positions = a.in_height * a.in_width;
  for_outputs<T, U>(a, [&](int64_t, int64_t c, int n, const Transform& in) {
    Vec total = Vec::zero();
    for (int64_t p = 0; p < positions; p += run_length) {  // partial sums keep rounding small
      Vec sum = Vec::zero();
      const int64_t end = at_most(p + run_length, positions);
      for (int64_t q = p; q < end; ++q) sum = Vec::add(sum, in(load_n(input + q * a.in_channels + c, n)));
      total = Vec::add(total, sum);
    }
    return Vec::div(total, Vec::set(static_cast<float>(positions)));
  });
}

inline void put(float* p, float value) { *p = value; }
inline void put(Bf16* p, float value) { Vec::set(value).store_partial(p, 1); }

template <class U>
void input(const ItemArgs& a) {
  U* output = static_cast<U*>(a.output);
  const int64_t positions = a.out_height * a.out_width;
  for (int64_t c = 0; c < a.out_channels; ++c) {
    const auto fill = [&](auto value) {
      for (int64_t p = 0; p < positions; ++p) put(output + p * a.out_channels + c, value(p));
    };
    if (c >= a.in_channels) {
      fill([](int64_t) { return 0.f; });
    } else if (a.pixels) {
      const uint8_t* bytes = static_cast<const uint8_t*>(a.input) + c * positions;
      const float* values = a.pixels + c * 256;
      fill([=](int64_t p) { return values[bytes[p]]; });
    } else {
      const float* values = static_cast<const float*>(a.input) + c * positions;
      fill([=](int64_t p) { return values[p]; });
    }
  }
}

}  // namespace

#ifdef __AVX512BF16__
#include "schedule_lines_inl.h"
#endif
#include "schedule_conv_inl.h"
// (These need what schedule_conv_inl.h defines.)
#include "schedule_channels_inl.h"
#include "schedule_depthwise_inl.h"
#include "schedule_winograd_inl.h"
#ifdef LASFAST_FOR_AMX
#include "tile_config_amx.h"
// (It comes first.)
#include "schedule_amx_cells_inl.h"
#include "schedule_amx_inl.h"
#endif

namespace {

#ifdef LASFAST_FOR_AMX
template <class U>
void dense(const ItemArgs& a, const Bf16*, const U*) {
  tile_convolution<U>(a);
}
template <class U>
void in_blocks(const ItemArgs&, const Bf16*, const U*) {}  // tiles have no way by blocks
#elif defined(LASFAST_FOR_AVX512_BF16) || defined(LASFAST_FOR_NEON_BF16)
template <class U>
void dense(const ItemArgs& a, const Bf16*, const U*) {
  convolution<PairProduct, Bf16, U>(a);
}
template <class U>
void in_blocks(const ItemArgs& a, const Bf16*, const U*) {
  winograd<2, PairProduct, Bf16, U>(a);
}
#else
template <class U>
void dense(const ItemArgs& a, const Bf16*, const U*) {
  convolution<FloatProduct, Bf16, U>(a);
}
template <class U>
void in_blocks(const ItemArgs& a, const Bf16*, const U*) {
  a.winograd.side == 2 ? winograd<2, FloatProduct, Bf16, U>(a) : winograd<4, FloatProduct, Bf16, U>(a);
}
#endif
template <class U>
void dense(const ItemArgs& a, const float*, const U*) {
  convolution<FloatProduct, float, U>(a);
}
template <class U>
void in_blocks(const ItemArgs& a, const float*, const U*) {
  a.winograd.side == 2 ? winograd<2, FloatProduct, float, U>(a) : winograd<4, FloatProduct, float, U>(a);
}

template <class T, class U>
void run(const ItemArgs& a) {
  switch (a.task) {
    case Task::input:
      input<U>(a);
      return;
    case Task::dense:
      dense(a, static_cast<const T*>(nullptr), static_cast<const U*>(nullptr));
      break;
    case Task::depthwise:
      depthwise<T, U>(a);
      break;
    case Task::max_pool:
      pool<T, U>(a, true);
      break;
    case Task::avg_pool:
      pool<T, U>(a, false);
      break;
    case Task::global_pool:
      global_pool<T, U>(a);
      break;
    case Task::combine:
      combine<T, U>(a);
      break;
    case Task::gate:
      gate<T, U>(a);
      break;
    case Task::arrange:
      arrange<T, U>(a);
      break;
    case Task::winograd:
      in_blocks(a, static_cast<const T*>(nullptr), static_cast<const U*>(nullptr));
      break;
  }
  if (a.partial) close_statistics(a);
}

}  // namespace

namespace lasfast {
const ScheduleKernels LASFAST_TABLE(schedule_kernels) = {W, run<float, float>, run<Bf16, Bf16>,
                                                         run<Bf16, float>};
}
