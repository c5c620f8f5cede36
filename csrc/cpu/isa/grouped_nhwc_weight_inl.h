// The weight gradient of grouped_nhwc_kernels.h; part of grouped_nhwc_kernels.cpp.
//
// The sums of all taps of one input stay in registers through a band.

namespace {

// A band of the weight's gradient, of inputs and output gradients that were copied.
struct WeightBand {
  Copied input, grad;
  int64_t height, width, out_width;  // of the input, of the gradient
  int64_t images, row, rows, stride, padding;
};

// Adds the products of P outputs of a row from `grad` on, whose taps begin at column `col` and row `y`.
template <int P, int R, int K, int S, bool edge, int G>
LASFAST_INLINE void add_products(const WeightBand& b, int64_t input, const float* image, const float* grad,
                                 int64_t y, int64_t y_end, int64_t col, Vec (&sum)[R][K]) {
  const int64_t pitch = b.input.pitch;
  Vec g[P];
#pragma GCC unroll 8
  for (int i = 0; i < P; ++i) g[i] = Vec::load(grad + i * W);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) {
    if (y + r < 0 || y + r >= y_end) continue;
    const float* from = image + (y + r - b.input.low) * b.input.row + col * pitch + input * G;
#pragma GCC unroll 32
    for (int x = 0; x < (P - 1) * S + K; ++x) {
      if (edge && !inside(col + x, b.width)) continue;
      const Vec v = repeat<G>(from + x * pitch);
#pragma GCC unroll 8
      for (int s = 0; s < K; ++s)
        if (x >= s && (x - s) % S == 0 && (x - s) / S < P) sum[r][s] = Vec::fma(v, g[(x - s) / S], sum[r][s]);
    }
  }
}

LASFAST_INLINE void add_sum(Vec sum, bool accumulate, float* to) {
  (accumulate ? Vec::add(Vec::load(to), sum) : sum).store(to);
}

// Sums all K * K taps of one input.
template <int K, int S, int G>
void weight_taps(const WeightBand& band, int64_t input, bool accumulate, float* sums) {
  const WeightBand b = band;  // in registers
  Vec sum[K][K];
  for (int r = 0; r < K; ++r)
    for (int s = 0; s < K; ++s) sum[r][s] = Vec::zero();
  for (int64_t i = 0; i < b.images; ++i) {
    const float* const image = b.input.values + i * b.input.image;
    for (int64_t oy = 0; oy < b.rows; ++oy) {
      const float* grad = b.grad.values + i * b.grad.image + oy * b.grad.row;
      const int64_t y = (b.row + oy) * S - b.padding, y_end = at_most(b.height, y + K);
      int64_t col = -b.padding;
      for (int64_t left = b.out_width; left > 0;) {
        const int64_t done = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
        if (left >= 8 && col >= 0 && col + 7 * S + K <= b.width)
          add_products<8, K, K, S, false, G>(b, input, image, grad, y, y_end, col, sum);
        else if (left >= 8)
          add_products<8, K, K, S, true, G>(b, input, image, grad, y, y_end, col, sum);
        else if (left >= 4)
          add_products<4, K, K, S, true, G>(b, input, image, grad, y, y_end, col, sum);
        else if (left >= 2)
          add_products<2, K, K, S, true, G>(b, input, image, grad, y, y_end, col, sum);
        else
          add_products<1, K, K, S, true, G>(b, input, image, grad, y, y_end, col, sum);
        left -= done;
        col += done * S;
        grad += done * W;
      }
    }
  }
  for (int r = 0; r < K; ++r)
    for (int s = 0; s < K; ++s) add_sum(sum[r][s], accumulate, sums + (r * K + s) * W);
}

// Takes any kernel and stride, tap by tap.
template <int G>
void weight_plain(const WeightBand& b, int64_t input, int64_t kernel, bool accumulate, float* sums) {
  for (int64_t r = 0; r < kernel; ++r)
    for (int64_t s = 0; s < kernel; ++s, sums += W) {
      Vec sum = Vec::zero();
      for (int64_t i = 0; i < b.images; ++i)
        for (int64_t oy = 0; oy < b.rows; ++oy) {
          const int64_t y = (b.row + oy) * b.stride + r - b.padding;
          if (!inside(y, b.height)) continue;
          const float* grad = b.grad.values + i * b.grad.image + oy * b.grad.row;
          const float* from = b.input.values + i * b.input.image + (y - b.input.low) * b.input.row;
          for (int64_t ox = 0; ox < b.out_width; ++ox) {
            const int64_t x = ox * b.stride + s - b.padding;
            if (inside(x, b.width))
              sum = Vec::fma(repeat<G>(from + x * b.input.pitch + input * G), Vec::load(grad + ox * W), sum);
          }
        }
      add_sum(sum, accumulate, sums);
    }
}

template <int G>
void weight_by(const WeightBand& b, const GroupedWeightArgs& a) {
  for (int64_t d = 0; d < a.channels.depth; ++d) {
    float* const sums = a.sums + d * a.kernel * a.kernel * W;
    if (a.kernel == 3 && a.stride == 1)
      weight_taps<3, 1, G>(b, d, a.accumulate, sums);
    else if (a.kernel == 3 && a.stride == 2)
      weight_taps<3, 2, G>(b, d, a.accumulate, sums);
    else if (a.kernel == 1 && a.stride == 1)
      weight_taps<1, 1, G>(b, d, a.accumulate, sums);
    else
      weight_plain<G>(b, d, a.kernel, a.accumulate, sums);
  }
}

template <class T>
void grad_weight(const GroupedWeightArgs& a) {
  const int64_t top = a.row * a.stride - a.padding;
  const Order order(a.channels, a.channels.to_lanes);
  WeightBand b;
  b.input = copied<T>(a.input, a.read, a.images, top, top + (a.rows - 1) * a.stride + a.kernel,
                      a.channels.reads, a.channels.pitch, order, a.scratch);
  b.grad = copied<T>(a.grad_output, a.grad, a.images, a.row, a.row + a.rows, a.channels.count, W, order,
                     a.grad_scratch);
  b.height = a.read.height, b.width = a.read.width, b.out_width = a.grad.width;
  b.images = a.images, b.row = a.row, b.rows = a.rows, b.stride = a.stride, b.padding = a.padding;
  const int64_t groups = a.channels.groups;
  groups == 1 ? weight_by<1>(b, a) : groups == 2 ? weight_by<2>(b, a) : weight_by<4>(b, a);
}

}  // namespace
