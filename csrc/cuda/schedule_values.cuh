// What the kernels of a schedule share: a thread's eight channels, how an operation sees a value, what
// follows op(...), statistics of a tile, and which tile a block is to compute.
#pragma once

#include "device.cuh"
#include "schedule_problem.h"

namespace lasfast {

struct Chunk {
  float v[chunk];
};

LASFAST_DEVICE Chunk load_chunk(const float* from) {
  Chunk x;
  LASFAST_UNROLL
  for (int half = 0; half < 2; ++half) {
    const device::Bits16 bits = device::load16(from + 4 * half);
    LASFAST_UNROLL
    for (int i = 0; i < 4; ++i) x.v[4 * half + i] = device::float_of(bits.word[i]);
  }
  return x;
}
LASFAST_DEVICE Chunk unpack(const device::Bits16& bits) {
  Chunk x;
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) {
    x.v[2 * i] = device::float_of(bits.word[i] << 16);
    x.v[2 * i + 1] = device::float_of(bits.word[i] & 0xffff0000u);
  }
  return x;
}
LASFAST_DEVICE Chunk load_chunk(const device::bfloat16* from) { return unpack(device::load16(from)); }

LASFAST_DEVICE device::Bits16 pack(const Chunk& x) {
  device::Bits16 bits;
  LASFAST_UNROLL
  for (int i = 0; i < 4; ++i) bits.word[i] = device::pack_bf16(x.v[2 * i], x.v[2 * i + 1]);
  return bits;
}
LASFAST_DEVICE void store_chunk(float* to, const Chunk& x) {
  LASFAST_UNROLL
  for (int half = 0; half < 2; ++half) {
    device::Bits16 bits;
    LASFAST_UNROLL
    for (int i = 0; i < 4; ++i) bits.word[i] = device::bits_of(x.v[4 * half + i]);
    device::store16(to + 4 * half, bits);
  }
}
LASFAST_DEVICE void store_chunk(device::bfloat16* to, const Chunk& x) { device::store16(to, pack(x)); }

// Channels that a thread handles together: X is Chunk, or fewer.
template <typename X>
constexpr int width_of = sizeof(X) / sizeof(float);

// Of a table without padding: channels from `first` on, `fill` where there is no table or no channel.
template <typename X>
LASFAST_DEVICE X load_some(const float* table, int64_t first, int channels, float fill) {
  X x;
  LASFAST_UNROLL
  for (int i = 0; i < width_of<X>; ++i) x.v[i] = first >= 0 && i < channels ? table[first + i] : fill;
  return x;
}

// A value at rest, as a thread reads and writes it: channels from c on of any position.
template <typename T>
struct Place {
  T* first;
  int pitch;

  LASFAST_DEVICE Place(const PassArgs& pass, int64_t offset, int pitch, int c)
      : first(static_cast<T*>(pass.arena) + offset + c), pitch(pitch) {}
  LASFAST_DEVICE Place(const PassArgs& pass, const Term& term, int c)
      : Place(pass, term.offset, term.pitch, c) {}

  template <typename X>
  LASFAST_DEVICE X load(int64_t position) const {
    return load_chunk(first + position * pitch);
  }
  LASFAST_DEVICE float load_one(int64_t position) const { return device::to_float(first[position * pitch]); }
  LASFAST_DEVICE void store(int64_t position, const Chunk& x) const {
    store_chunk(first + position * pitch, x);
  }
};

// Comparisons are so that NaN comes through, as in PyTorch.
LASFAST_DEVICE float clamp(float v, float high) { return v < 0.f ? 0.f : v > high ? high : v; }

template <int n>
LASFAST_DEVICE void activate(float (&x)[n], int32_t activation) {
  if (activation == 0) return;
  if (activation <= 2) {  // ReLU, ReLU6
    const float high = activation == 2 ? 6.f : device::infinity();
    LASFAST_UNROLL
    for (int i = 0; i < n; ++i) x[i] = clamp(x[i], high);
    return;
  }
  // A gate, hard (3, 6) or not (4, 5), and the value times the gate (3, 4).
  const bool hard = activation == 3 || activation == 6, times = activation <= 4;
  LASFAST_UNROLL
  for (int i = 0; i < n; ++i) {
    const float gate =
        hard ? clamp(x[i] + 3.f, 6.f) * (1.f / 6.f) : device::reciprocal(1.f + device::exp(-x[i]));
    x[i] = times ? x[i] * gate : gate;
  }
}

// The norm and activation of a term, for its channels from c on.
template <typename X>
struct SeenAs {
  X scale, shift;
  int32_t activation;

  LASFAST_DEVICE SeenAs(const PassArgs& pass, int32_t norm, int32_t activation, int channels, int c)
      : scale(load_some<X>(pass.scale, norm < 0 ? -1 : norm + c, channels - c, 1.f)),
        shift(load_some<X>(pass.shift, norm < 0 ? -1 : norm + c, channels - c, 0.f)),
        activation(activation) {}
  LASFAST_DEVICE SeenAs(const PassArgs& pass, const Term& term, int c)
      : SeenAs(pass, term.norm, term.activation, term.channels, c) {}

  LASFAST_DEVICE void normalize(X& x) const {
    LASFAST_UNROLL
    for (int i = 0; i < width_of<X>; ++i) x.v[i] = x.v[i] * scale.v[i] + shift.v[i];
  }
  LASFAST_DEVICE void operator()(X& x) const {
    normalize(x);
    activate(x.v, activation);
  }
};
using Seen = SeenAs<Chunk>;

// What follows op(...), for channels of the output from c on.
template <typename T, typename X = Chunk>
struct Finish {
  const PassArgs& pass;
  const Problem& p;
  int c;
  SeenAs<X> other, output;

  LASFAST_DEVICE Finish(const PassArgs& pass, const Problem& p, int c)
      : pass(pass),
        p(p),
        c(c),
        other(pass, p.adds ? p.other.norm : -1, p.other.activation, p.other.channels, c),
        output(pass, p.norm, p.activation, p.out_channels, c) {
    // norm(x + bias) = scale * x + (scale * bias + shift)
    const X bias = load_some<X>(pass.biases, p.bias < 0 ? -1 : p.bias + c, p.out_channels - c, 0.f);
    LASFAST_UNROLL
    for (int i = 0; i < width_of<X>; ++i) output.shift.v[i] += output.scale.v[i] * bias.v[i];
  }

  LASFAST_DEVICE void store(X x, int64_t position) const {
    output.normalize(x);
    const int with = p.adds ? p.other.channels - c : 0;
    if (with > 0) {
      X y = Place<T>(pass, p.other, c).template load<X>(position);
      other(y);
      LASFAST_UNROLL
      for (int i = 0; i < width_of<X>; ++i) x.v[i] += i < with ? y.v[i] : 0.f;
    }
    activate(x.v, output.activation);
    const int channels = p.out_channels - c;
    if (p.leaf >= 0) {
      float* const logits =
          pass.logits + (p.leaf * pass.logit_images + pass.first + position) * p.out_channels + c;
      LASFAST_UNROLL
      for (int i = 0; i < width_of<X>; ++i)
        if (i < channels) logits[i] = x.v[i];
      return;
    }
    LASFAST_UNROLL
    for (int i = 0; i < width_of<X>; ++i) x.v[i] = i < channels ? x.v[i] : 0.f;
    Place<T>(pass, p.output, p.out_pitch, c).store(position, x);
  }
};

// A tile of a problem's output.
struct Tile {
  int64_t row, first, end;  // row: its number among those of its channels; positions
  int column;               // first channel

  LASFAST_DEVICE Tile(const PassArgs& pass, const Problem& p, int64_t tile) {
    const int64_t total = pass.count * p.out_height * p.out_width;
    row = tile / p.column_tiles;
    column = static_cast<int>(tile % p.column_tiles) * p.columns;
    first = row * p.rows;
    end = first + p.rows < total ? first + p.rows : total;
  }
  // That of this block, where the blocks of a launch are the tiles of its problems.
  LASFAST_DEVICE Tile(const PassArgs& pass, const Problem& p)
      : Tile(pass, p, device::block_index() - p.first_tile) {}
  LASFAST_DEVICE bool empty() const { return first >= end; }  // fewer images than the plan is for
};

// Copies the problem that this block works on to shared memory.
LASFAST_DEVICE void find_problem(const PassArgs& pass, Problem* shared) {
  auto* const found = reinterpret_cast<int32_t*>(shared);
  const int thread = device::thread_index();
  const int64_t block = device::block_index();
  for (int64_t i = thread; i < pass.problem_count; i += schedule_threads)
    if (pass.problems[i].first_tile <= block &&
        (i + 1 == pass.problem_count || block < pass.problems[i + 1].first_tile))
      *found = static_cast<int32_t>(i);
  device::barrier();
  const auto* const from = reinterpret_cast<const int32_t*>(pass.problems + *found);
  device::barrier();
  if (thread < static_cast<int>(sizeof(Problem) / sizeof(int32_t)))
    reinterpret_cast<int32_t*>(shared)[thread] = from[thread];
  device::barrier();
}

// Mean and squared deviations of each column of a tile in shared memory, of `count` rows `pitch` floats
// apart. All threads of the block call it; what they wrote to the tile is in place. Two passes, and a fixed
// order.
struct Moments {
  float mean[schedule_threads], deviations[schedule_threads];
};
LASFAST_DEVICE void take_statistics(const PassArgs& pass, const Problem& p, const Tile& tile,
                                    const float* values, int pitch, Moments* moments) {
  const int thread = device::thread_index(), count = static_cast<int>(tile.end - tile.first);
  const int groups = schedule_threads / p.columns, group = thread / p.columns, column = thread % p.columns;
  if (group < groups && group < count) {
    const float n = static_cast<float>((count - group + groups - 1) / groups);
    float sum = 0.f, deviations = 0.f;
    for (int r = group; r < count; r += groups) sum += values[r * pitch + column];
    const float mean = sum / n;
    for (int r = group; r < count; r += groups) {
      const float d = values[r * pitch + column] - mean;
      deviations += d * d;
    }
    moments->mean[thread] = mean;
    moments->deviations[thread] = deviations;
  }
  device::barrier();
  if (thread >= p.columns || tile.column + thread >= p.out_pitch) return;
  float mean = 0.f, deviations = 0.f, seen = 0.f;
  for (int g = 0; g < groups && g < count; ++g) {
    const float n = static_cast<float>((count - g + groups - 1) / groups);
    const float delta = moments->mean[g * p.columns + thread] - mean;
    mean += delta * (n / (seen + n));
    deviations += moments->deviations[g * p.columns + thread] + delta * delta * (seen * n / (seen + n));
    seen += n;
  }
  const int c = tile.column + thread;
  if (p.bias >= 0 && c < p.out_channels) mean += pass.biases[p.bias + c];
  float* const partial = pass.partial + p.partial + 2 * tile.row * p.out_pitch + c;
  partial[0] = mean;
  partial[p.out_pitch] = deviations;
}

}  // namespace lasfast
