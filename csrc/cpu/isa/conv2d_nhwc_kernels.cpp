// The weight gradient of conv2d_nhwc_kernels.h by vectors of right channels: of fp32 values, or, where the
// instruction set multiplies pairs of them, of bf16 values.
//
// A block of P left values by N vectors stays in registers while all positions of a band pass: as in
// convolutions (schedule_conv_inl.h), with positions in the place of input channels.
#include "conv2d_nhwc_weight_inl.h"
#include "product_inl.h"

namespace {

// So many left values by two vectors are a block of sums, which stays in registers.
constexpr int product_cells = isa == lasfast::Isa::generic ? 4 : isa == lasfast::Isa::avx2 ? 6 : 12;
constexpr int64_t panel = 2 * tile;  // right channels that are together, position by position

// Adds the products of P left values and N vectors to sums: P rows, `pitch` floats apart, of N vectors. Where
// they are `apart`, they are summed before that: sums of sums have smaller errors than one long sum.
template <class M, int P, int N, bool apart = false>
inline void multiply(const Steps<typename M::Cell>& s, int64_t pitch, bool first, float* sums) {
  // Few sums would wait for one another: then several positions have sums of their own.
  constexpr int U = P * N < 4 ? 4 : P * N < 8 ? 2 : 1;
  Vec sum[U][P][N];
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < N; ++v) {
      sum[0][p][v] = first || apart ? Vec::zero() : Vec::load(sums + p * pitch + v * W);
      for (int u = 1; u < U; ++u) sum[u][p][v] = Vec::zero();
    }
  // The longer loop is inside.
  const bool grouped = s.groups > s.columns;
  const int64_t outer = grouped ? s.columns : s.groups, inner = grouped ? s.groups : s.columns;
  const int64_t left_outer = grouped ? s.left_column : s.left_group;
  const int64_t left_inner = grouped ? s.left_group : s.left_column;
  const int64_t right_outer = grouped ? s.right_column : s.right_group;
  const int64_t right_inner = grouped ? s.right_group : s.right_column;
  for (int64_t y = 0, slot = s.slot; y < s.rows; ++y, slot += s.stride) {
    if (slot >= s.slots) slot -= s.slots;
    for (int64_t o = 0; o < outer; ++o) {
      const auto* left = s.left + slot * s.left_row + o * left_outer;
      const auto* right = s.right + y * s.right_row + o * right_outer;
      const auto add = [&](Vec(&to)[P][N]) __attribute__((always_inline)) {
        M w[N];
        for (int v = 0; v < N; ++v) w[v] = M::load(right + v * W);
        if constexpr (M::lanes == 4 && P % 4 == 0) {  // one load has four left values, which are neighbours
#pragma GCC unroll 24
          for (int p = 0; p < P; p += 4) {
            const M x = M::load(left + p);
            for (int v = 0; v < N; ++v) {
              to[p][v] = M::template add_lane<0>(x, w[v], to[p][v]);
              to[p + 1][v] = M::template add_lane<1>(x, w[v], to[p + 1][v]);
              to[p + 2][v] = M::template add_lane<2>(x, w[v], to[p + 2][v]);
              to[p + 3][v] = M::template add_lane<3>(x, w[v], to[p + 3][v]);
            }
          }
        } else {
#pragma GCC unroll 24
          for (int p = 0; p < P; ++p) {
            const M x = M::set(left + p);
            for (int v = 0; v < N; ++v) to[p][v] = M::add(x, w[v], to[p][v]);
          }
        }
        left += left_inner;
        right += right_inner;
      };
      int64_t i = 0;
      for (; i + U <= inner; i += U)
        for (int u = 0; u < U; ++u) add(sum[u]);
      for (; i < inner; ++i) add(sum[0]);
    }
  }
#pragma GCC unroll 24
  for (int p = 0; p < P; ++p)
    for (int v = 0; v < N; ++v) {
      for (int u = 1; u < U; ++u) sum[0][p][v] = Vec::add(sum[0][p][v], sum[u][p][v]);
      float* const to = sums + p * pitch + v * W;
      if (apart && !first) sum[0][p][v] = Vec::add(Vec::load(to), sum[0][p][v]);
      sum[0][p][v].store(to);
    }
}

// Up to W neighbouring values of the images that are summed over together, and zeros behind them.
LASFAST_INLINE Vec join(const float* from, int64_t, int64_t, int n) { return load_n(from, n); }
#ifdef __AVX512BF16__
LASFAST_INLINE Vec join(const Bf16* from, int64_t image, int64_t images, int n) {
  const __m256i even = _mm256_maskz_loadu_epi16(Vec::first(n), from);
  const __m256i odd = _mm256_maskz_loadu_epi16(images > 1 ? Vec::first(n) : __mmask16{0}, from + image);
  return {_mm512_castsi512_ps(
      _mm512_or_si512(_mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16)))};
}
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
LASFAST_INLINE Vec join(const Bf16* from, int64_t image, int64_t images, int n) {
  const uint16x4x2_t pairs =
      vzip_u16(Vec::load_bits(from, n), images > 1 ? Vec::load_bits(from + image, n) : vdup_n_u16(0));
  return {vreinterpretq_f32_u16(vcombine_u16(pairs.val[0], pairs.val[1]))};
}
#endif

template <class M>
class VectorGradWeight
    : public GradWeight<VectorGradWeight<M>, typename M::Stored, typename M::Cell, M::values> {
  using Source = typename M::Stored;
  using Cell = typename M::Cell;
  using Base = GradWeight<VectorGradWeight, Source, Cell, M::values>;

 public:
  static constexpr bool long_runs = false;

  explicit VectorGradWeight(const GradWeightItem& a)
      : Base(a, a.right_tiles > 1 ? panel : tile),
        pitch_(a.right_tiles * tile),
        panel_step_(a.groups * this->right_group_),
        apart_(a.left.channels % 8 == 0) {}

  void pack_left_run(const Source* from, int64_t image, int64_t images, int64_t length, Cell* to) const {
    for (int64_t c = 0; c < length; c += W) {
      const int n = static_cast<int>(at_most(length - c, W));
      prefetch(from + c, image, this->a_.left.row);
      store_n(join(from + c, image, images, n), reinterpret_cast<float*>(to + c), n);
    }
  }

  void pack_right_run(const Source* from, int64_t image, int64_t images, int64_t length, Cell* to) const {
    for (int64_t c = 0; c < pitch_; c += W) {
      const int n = static_cast<int>(at_most(at_least(length - c, 0), W));
      prefetch(from + c, image, this->a_.right.row);
      join(from + c, image, images, n)
          .store(reinterpret_cast<float*>(to + c / panel * panel_step_ + c % panel));
    }
  }

  void add(int64_t y0, int64_t rows, bool first) const {
    const GradWeightItem& a = this->a_;
    const int64_t channels = a.left.channels;
    for (int64_t c = 0; c < pitch_; c += 2 * W) {  // their panel stays in the first-level cache
      const int64_t right = c / panel * panel_step_ + c % panel;
      for (int64_t r = 0; r < a.kernel; ++r) {
        float* const sums = a.sums + r * a.left_tiles * tile * pitch_ + c;
        for (int64_t s = 0; s < (apart_ ? a.kernel : 1); ++s) {
          const Rows rows_of{y0, rows, r, right, first, sums};
          const int64_t from = s * channels, to = apart_ ? from + channels : a.kernel * channels;
          if (c + W < pitch_)
            add_rows<product_cells, 2>(rows_of, from, to);
          else
            add_rows<2 * product_cells, 1>(rows_of, from, to);
        }
      }
    }
  }

 private:
  // Prefetches what comes into the same place next, while this is multiplied.
  LASFAST_INLINE void prefetch(const Source* from, int64_t image, int64_t row) const {
    const Source* next =
        from + (this->a_.groups > 1 ? this->a_.groups * M::values * image : this->a_.band * row);
    __builtin_prefetch(next, 0, 2);
    if (M::values > 1) __builtin_prefetch(next + image, 0, 2);
  }

  struct Rows {
    int64_t y0, rows, r, right;
    bool first;
    float* sums;
  };

  // Takes left values from .. to - 1: P at a time for as long as there are so many, then fewer.
  template <int P, int N>
  void add_rows(const Rows& b, int64_t from, int64_t to) const {
    const int64_t channels = this->a_.left.channels;
    // Twelve and four take longer than eight and eight.
    for (; to - from >= P && !(P == 12 && to - from == 16); from += P) {
      const Steps<Cell> steps =
          this->steps(b.y0, b.rows, b.r, from / channels, (from + P - 1) / channels, from, b.right);
      if (steps.groups > 0 || b.first) multiply<M, P, N>(steps, pitch_, b.first, b.sums + from * pitch_);
    }
    if constexpr (P > 1) {
      constexpr int next = P == 12 ? 8 : P == 6 ? 4 : P / 2;
      if (from < to) add_rows<next, N>(b, from, to);
    }
  }

  const int64_t pitch_, panel_step_;
  const bool apart_;  // whether columns of the kernel do not share blocks
};

template <class M>
void run(const GradWeightItem& a) {
  VectorGradWeight<M>(a).run();
}

}  // namespace

#if defined(LASFAST_FOR_AVX512_BF16) || defined(LASFAST_FOR_NEON_BF16)
namespace lasfast {
const GradWeightKernels LASFAST_TABLE(grad_weight_kernels) = {
    PairProduct::values, sizeof(PairProduct::Cell), false, run<PairProduct>, store, nullptr, nullptr};
}  // namespace lasfast
#else
#include "conv2d_nhwc_winograd_inl.h"
namespace lasfast {
const GradWeightKernels LASFAST_TABLE(grad_weight_kernels) = {
    FloatProduct::values, sizeof(FloatProduct::Cell), false, run<FloatProduct>, store,
    run_winograd,         transform_winograd};
}  // namespace lasfast
#endif
