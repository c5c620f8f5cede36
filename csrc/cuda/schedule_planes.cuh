// The operations of a schedule that read each input a few times at most: a thread has eight channels of four
// positions. Depthwise convolutions take neighbouring positions together, so that an input that several of
// them see is loaded and normalised once.
//
// T is the type of the values, and says where they lie: Place<T> reads and writes them.
#pragma once

#include "schedule_values.cuh"

namespace lasfast {

// ---- operations: what they compute of one position. `cheap` says that it is little more than a load.

template <typename T>
struct Combine {
  static constexpr bool cheap = true;
  Place<T> from;
  Seen<> in;

  LASFAST_DEVICE Combine(const PassArgs& pass, const Problem& p, int c)
      : from(pass, p.input, c), in(pass, p.input, c) {}
  LASFAST_DEVICE Chunk operator()(int64_t position) const {
    Chunk x = from.load(position);
    in(x);
    return x;
  }
};

template <typename T, bool largest>
struct Pool {
  static constexpr bool cheap = false;
  const Problem& p;
  Place<T> from;
  Seen<> in;

  LASFAST_DEVICE Pool(const PassArgs& pass, const Problem& p, int c)
      : p(p), from(pass, p.input, c), in(pass, p.input, c) {}
  LASFAST_DEVICE Chunk operator()(int64_t position) const {
    const Position at(p, position);
    const int64_t image = at.image * p.input.height * p.input.width;
    const int y = at.y * p.stride - p.padding, x = at.x * p.stride - p.padding;
    const int top = y < 0 ? 0 : y, left = x < 0 ? 0 : x;
    const int bottom = y + p.kernel_height < p.input.height ? y + p.kernel_height : p.input.height;
    const int right = x + p.kernel_width < p.input.width ? x + p.kernel_width : p.input.width;
    Chunk result;
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) result.v[i] = largest ? -device::infinity() : 0.f;
    for (int r = top; r < bottom; ++r)
      for (int s = left; s < right; ++s) {
        Chunk v = from.load(image + static_cast<int64_t>(r) * p.input.width + s);
        in(v);
        LASFAST_UNROLL
        for (int i = 0; i < chunk; ++i) {
          if (largest)
            result.v[i] = result.v[i] >= v.v[i] || result.v[i] != result.v[i] ? result.v[i] : v.v[i];
          else
            result.v[i] += v.v[i];
        }
      }
    const float count = static_cast<float>((bottom - top) * (right - left));
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) result.v[i] = largest ? result.v[i] : result.v[i] / count;
    return result;
  }
};
template <typename T>
using MaxPool = Pool<T, true>;
template <typename T>
using AvgPool = Pool<T, false>;

template <typename T>
struct GlobalPool {
  static constexpr bool cheap = false;
  Place<T> from;
  int64_t positions;
  Seen<> in;

  LASFAST_DEVICE GlobalPool(const PassArgs& pass, const Problem& p, int c)
      : from(pass, p.input, c),
        positions(static_cast<int64_t>(p.input.height) * p.input.width),
        in(pass, p.input, c) {}
  LASFAST_DEVICE Chunk operator()(int64_t image) const {
    constexpr int64_t run = 16;  // sums of sums keep rounding small
    Chunk total = {};
    for (int64_t first = 0; first < positions; first += run) {
      Chunk sum = {};
      const int64_t end = first + run < positions ? first + run : positions;
      for (int64_t at = first; at < end; ++at) {
        Chunk v = from.load(image * positions + at);
        in(v);
        LASFAST_UNROLL
        for (int i = 0; i < chunk; ++i) sum.v[i] += v.v[i];
      }
      LASFAST_UNROLL
      for (int i = 0; i < chunk; ++i) total.v[i] += sum.v[i];
    }
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) total.v[i] /= static_cast<float>(positions);
    return total;
  }
};

template <typename T>
struct Gate {
  static constexpr bool cheap = false;
  Combine<T> input;
  Place<T> factors;
  int positions;
  Seen<> with;

  LASFAST_DEVICE Gate(const PassArgs& pass, const Problem& p, int c)
      : input(pass, p, c),
        factors(pass, p.other, c),
        positions(p.out_height * p.out_width),
        with(pass, p.other, c) {}
  LASFAST_DEVICE Chunk operator()(int64_t position) const {
    Chunk x = input(position);
    Chunk factor = factors.load(static_cast<uint32_t>(position) / positions);
    with(factor);
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) x.v[i] *= factor.v[i];
    return x;
  }
};

// Channels that lie together, as in a concatenation, are loaded together where they are aligned.
template <typename T>
struct Arrange {
  static constexpr bool cheap = false;
  const PassArgs& pass;
  const Problem& p;
  int source[chunk];  // channels of input and, behind them, of other
  bool together;
  Chunk scale, shift;

  LASFAST_DEVICE Arrange(const PassArgs& pass, const Problem& p, int c) : pass(pass), p(p), together(true) {
    const int each = (p.input.channels + p.other.channels) / p.groups;
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) {
      const bool some = c + i < p.out_channels;
      const int k = p.first + (some ? c + i : p.out_channels - 1);
      source[i] = k % p.groups * each + k / p.groups;
      const Term& term = this->term(i);
      const int64_t norm = term.norm + channel(i);
      scale.v[i] = term.norm < 0 ? 1.f : pass.scale[norm];
      shift.v[i] = term.norm < 0 ? 0.f : pass.shift[norm];
      together = together && (!some || (source[i] == source[0] + i && second(i) == second(0)));
    }
    together = together && channel(0) % chunk == 0;
  }
  LASFAST_DEVICE Chunk operator()(int64_t position) const {
    Chunk x;
    if (together) {
      x = Place<T>(pass, term(0), channel(0)).load(position);
    } else {
      LASFAST_UNROLL
      for (int i = 0; i < chunk; ++i) x.v[i] = Place<T>(pass, term(i), channel(i)).load_one(position);
    }
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) x.v[i] = x.v[i] * scale.v[i] + shift.v[i];
    Chunk y = x;
    activate(x.v, p.input.activation);
    activate(y.v, p.other.activation);
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) x.v[i] = second(i) ? y.v[i] : x.v[i];
    return x;
  }

 private:
  LASFAST_DEVICE bool second(int i) const { return source[i] >= p.input.channels; }
  LASFAST_DEVICE const Term& term(int i) const { return second(i) ? p.other : p.input; }
  LASFAST_DEVICE int channel(int i) const { return source[i] - (second(i) ? p.input.channels : 0); }
};

// The images, [count, channels, height, width], in fp32 or as bytes whose values a table has.
template <typename T>
struct Input {
  static constexpr bool cheap = false;
  const void* images;
  const float* pixels;
  int64_t first, positions;
  int c, channels;

  LASFAST_DEVICE Input(const PassArgs& pass, const Problem& p, int c)
      : images(pass.images),
        pixels(pass.pixels),
        first(pass.first),
        positions(static_cast<int64_t>(p.out_height) * p.out_width),
        c(c),
        channels(p.input.channels) {}
  LASFAST_DEVICE Chunk operator()(int64_t position) const {
    const int64_t image = first + position / positions;
    const int64_t from = (image * channels + c) * positions + position % positions;
    Chunk x;
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) x.v[i] = c + i < channels ? value(from + i * positions, c + i) : 0.f;
    return x;
  }

 private:
  LASFAST_DEVICE float value(int64_t at, int channel) const {
    if (!pixels) return static_cast<const float*>(images)[at];
    return pixels[channel * 256 + static_cast<const uint8_t*>(images)[at]];
  }
};

// ---- tiles

// Keeps a chunk for statistics.
LASFAST_DEVICE void keep(float* to, const Chunk& x) {
  LASFAST_UNROLL
  for (int i = 0; i < chunk; ++i) to[i] = x.v[i];
}

// Computes a tile of an operation. Where it takes statistics, `values` keeps the tile.
template <typename T, template <typename> class Op>
LASFAST_DEVICE void plane_tile(const PassArgs& pass, const Problem& p, const Tile& tile, float* values) {
  const int across = p.columns / chunk, down = block_threads / across;
  const int column = device::thread_index() % across * chunk, row = device::thread_index() / across;
  if (row < down && tile.column + column < p.out_pitch) {
    const Op<T> op(pass, p, tile.column + column);
    const Finish<T> finish(pass, p, tile.column + column);
    // Several loads are under way before the first is waited for.
    constexpr int at_once = Op<T>::cheap ? 2 : 1;
    LASFAST_ROLL
    for (int first = row; first < p.rows; first += at_once * down) {
      Chunk x[at_once] = {};
      LASFAST_UNROLL
      for (int i = 0; i < at_once; ++i)
        if (tile.first + first + i * down < tile.end) x[i] = op(tile.first + first + i * down);
      LASFAST_UNROLL
      for (int i = 0; i < at_once; ++i) {
        if (tile.first + first + i * down >= tile.end) break;
        finish.store(x[i], tile.first + first + i * down);
        if (p.partial >= 0) keep(values + (first + i * down) * p.columns + column, x[i]);
      }
    }
  }
}

// Copies a depthwise convolution's weights for the channels from `column` on to shared memory, [taps,
// p.columns].
LASFAST_DEVICE void load_taps(const PassArgs& pass, const Problem& p, int column, float* weights) {
  const int taps = p.kernel_height * p.kernel_width;
  const auto* const packed = reinterpret_cast<const float*>(pass.weights + p.weight);
  for (int i = device::thread_index(); i < taps * p.columns; i += block_threads) {
    const int c = column + i % p.columns;
    weights[i] = c < p.out_pitch ? packed[i / p.columns * p.out_pitch + c] : 0.f;
  }
}

template <typename T>
LASFAST_DEVICE void depthwise_tile(const PassArgs& pass, const Problem& p, const Tile& tile,
                                   const float* weights, float* values) {
  const int thread = device::thread_index(), across = p.columns / chunk, down = block_threads / across;
  const int column = thread % across * chunk, row = thread / across;
  if (row < down && tile.column + column < p.out_pitch) {
    const Place<T> from(pass, p.input, tile.column + column);
    const Seen<> in(pass, p.input, tile.column + column);
    const int64_t begin = tile.first + row * plane_rows;
    const int64_t end = begin + plane_rows < tile.end ? begin + plane_rows : tile.end;
    for (int64_t first = begin; first < end;) {
      // As many positions as are in one row of the output.
      const Position at(p, first);
      const int run = end - first < p.out_width - at.x ? static_cast<int>(end - first) : p.out_width - at.x;
      const int64_t image = at.image * p.input.height;
      const int top = at.y * p.stride - p.padding, left = at.x * p.stride - p.padding;
      Chunk sum[plane_rows] = {};
      for (int r = 0; r < p.kernel_height; ++r) {
        if (top + r < 0 || top + r >= p.input.height) continue;
        const int64_t line = (image + top + r) * p.input.width + left;
        for (int s = 0; s < (run - 1) * p.stride + p.kernel_width; ++s) {
          if (left + s < 0 || left + s >= p.input.width) continue;
          Chunk v = from.load(line + s);
          in(v);
          LASFAST_UNROLL
          for (int i = 0; i < plane_rows; ++i) {
            const int tap = s - i * p.stride;
            if (i >= run || tap < 0 || tap >= p.kernel_width) continue;
            const float* const w = weights + (r * p.kernel_width + tap) * p.columns + column;
            LASFAST_UNROLL
            for (int j = 0; j < chunk; ++j) sum[i].v[j] += v.v[j] * w[j];
          }
        }
      }
      const Finish<T> finish(pass, p, tile.column + column);  // not sooner: the sums take registers
      LASFAST_UNROLL
      for (int i = 0; i < plane_rows; ++i) {
        if (i >= run) break;
        finish.store(sum[i], first + i);
        if (p.partial >= 0) keep(values + (first + i - tile.first) * p.columns + column, sum[i]);
      }
      first += run;
    }
  }
}

}  // namespace lasfast
