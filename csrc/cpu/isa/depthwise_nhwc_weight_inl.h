// The weight gradient of depthwise_nhwc_kernels.h; part of depthwise_nhwc_kernels.cpp.
//
// The sums of all taps, or of as many rows of them as fit, stay in registers through all positions of a
// piece.

namespace {

// In registers, of which there are 32 or 16. (With NEON, whose products take no operand from memory, those
// that are multiplied need registers, too.)
#ifdef LASFAST_VEC_NEON
constexpr int weight_sums = 21;
#else
constexpr int weight_sums = W == 16 ? 28 : 12;
#endif

template <class T>
struct WeightPlane {
  const T* input;  // image
  int64_t cols, pitch, pixel;
};

// Adds the products of P outputs of a row from `grad` on, whose taps begin at column `col` and row `y`.
template <int P, int R, int K, int S, bool edge, class T>
LASFAST_INLINE void add_products(const WeightPlane<T>& p, const T* grad, int64_t y, int64_t y_end,
                                 int64_t col, Vec (&sum)[R][K]) {
  const int64_t pixel = p.pixel, cols = p.cols;
  Vec g[P];
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) g[i] = Vec::load(grad + i * pixel);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    if (y + r < 0 || y + r >= y_end) continue;
    const T* from = p.input + (y + r) * p.pitch;
#pragma GCC unroll 32
    for (int x = 0; x < (P - 1) * S + K; ++x) {
      if (edge && !inside(col + x, cols)) continue;
      const Vec v = Vec::load(from + (col + x) * pixel);
#pragma GCC unroll 8
      for (int s = 0; s < K; ++s)
        if (x >= s && (x - s) % S == 0 && (x - s) / S < P) sum[r][s] = Vec::fma(v, g[(x - s) / S], sum[r][s]);
    }
  }
}

// Sums the taps of rows `tap` .. tap + R - 1, of vector v.
template <int R, int K, int S, class T>
void weight_rows(const DepthwiseWeightArgs& a, int64_t v, int64_t tap, Prefetch& ahead) {
  constexpr int wide = 8, narrow = 4;
  const int64_t channels = a.channels, c = vector_channel(v, channels);
  WeightPlane<T> p{nullptr, a.width, a.width * channels, channels};
  Vec sum[R][K];
  for (int r = 0; r < R; ++r)
    for (int s = 0; s < K; ++s) sum[r][s] = Vec::zero();
  for (int64_t i = 0; i < a.images; ++i) {
    p.input = static_cast<const T*>(a.input) + i * a.height * p.pitch + c;
    for (int64_t oy = a.row; oy < a.row + a.rows; ++oy) {
      const T* grad =
          static_cast<const T*>(a.grad_output) + (i * a.out_height + oy) * a.out_width * channels + c;
      const int64_t y = oy * S - a.padding + tap, y_end = at_most(a.height, y + K - tap);
      int64_t col = -a.padding;
      ahead.step();
      for (int64_t left = a.out_width; left > 0;) {
        const int64_t done = left >= wide ? wide : left >= narrow ? narrow : 1;
        if (left >= wide && col >= 0 && col + (wide - 1) * S + K <= a.width)
          add_products<wide, R, K, S, false>(p, grad, y, y_end, col, sum);
        else if (left >= wide)
          add_products<wide, R, K, S, true>(p, grad, y, y_end, col, sum);
        else if (left >= narrow)
          add_products<narrow, R, K, S, true>(p, grad, y, y_end, col, sum);
        else
          add_products<1, R, K, S, true>(p, grad, y, y_end, col, sum);
        left -= done;
        col += done * S;
        grad += done * channels;
      }
    }
  }
  float* to = a.sums + (v * K * K + tap * K) * W;
  for (int r = 0; r < R; ++r)
    for (int s = 0; s < K && tap + r < K; ++s, to += W)
      (a.accumulate ? Vec::add(Vec::load(to), sum[r][s]) : sum[r][s]).store(to);
}

template <int K, int S, class T>
void weight_all(const DepthwiseWeightArgs& a, int64_t v, Prefetch& ahead) {
  constexpr int R = K * K <= weight_sums ? K : weight_sums / K;
  for (int64_t tap = 0; tap < K; tap += R) weight_rows<R, K, S, T>(a, v, tap, ahead);
}

// Takes any kernel, stride and number of channels, tap by tap.
template <class T>
void weight_plain(const DepthwiseWeightArgs& a, int64_t v, Prefetch&) {
  const int64_t channels = a.channels, c = vector_channel(v, channels), kernel = a.kernel;
  const int n = static_cast<int>(at_most(channels, W));
  float* to = a.sums + v * kernel * kernel * W;
  for (int64_t r = 0; r < kernel; ++r)
    for (int64_t s = 0; s < kernel; ++s, to += W) {
      Vec sum = Vec::zero();
      for (int64_t i = 0; i < a.images; ++i)
        for (int64_t oy = a.row; oy < a.row + a.rows; ++oy) {
          const int64_t y = oy * a.stride + r - a.padding;
          if (!inside(y, a.height)) continue;
          const T* grad =
              static_cast<const T*>(a.grad_output) + (i * a.out_height + oy) * a.out_width * channels + c;
          const T* from = static_cast<const T*>(a.input) + (i * a.height + y) * a.width * channels + c;
          for (int64_t ox = 0; ox < a.out_width; ++ox) {
            const int64_t x = ox * a.stride + s - a.padding;
            if (!inside(x, a.width)) continue;
            sum = n == W ? Vec::fma(Vec::load(from + x * channels), Vec::load(grad + ox * channels), sum)
                         : Vec::fma(Vec::load_partial(from + x * channels, n),
                                    Vec::load_partial(grad + ox * channels, n), sum);
          }
        }
      (a.accumulate ? Vec::add(Vec::load(to), sum) : sum).store(to);
    }
}

template <class T>
void grad_weight(const DepthwiseWeightArgs& a) {
  const bool whole = a.channels >= W;
  void (*run)(const DepthwiseWeightArgs&, int64_t, Prefetch&) = weight_plain<T>;
  if (whole && a.stride == 1) {
    if (a.kernel == 3) run = weight_all<3, 1, T>;
    if (a.kernel == 5) run = weight_all<5, 1, T>;
    if (a.kernel == 7) run = weight_all<7, 1, T>;
  }
  if (whole && a.stride == 2) {
    if (a.kernel == 3) run = weight_all<3, 2, T>;
    if (a.kernel == 5) run = weight_all<5, 2, T>;
    if (a.kernel == 7) run = weight_all<7, 2, T>;
  }
  Prefetch ahead(a.ahead, a.vectors * a.images * a.rows);
  for (int64_t v = a.vector; v < a.vector + a.vectors; ++v) run(a, v, ahead);
}

}  // namespace
