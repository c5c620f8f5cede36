// What the kernels of a schedule share: how an operation sees a value, what follows op(...), statistics of a
// tile, and which tile a block is to compute.
#pragma once

#include "activation.cuh"
#include "chunk.cuh"
#include "device.cuh"
#include "moments.cuh"
#include "schedule_problem.h"

namespace lasfast {

// Of a table without padding: channels from `first` on, `fill` where there is no table or no channel.
LASFAST_DEVICE Chunk load_some(const float* table, int64_t first, int channels, float fill) {
  Chunk x;
  LASFAST_UNROLL
  for (int i = 0; i < chunk; ++i) x.v[i] = first >= 0 && i < channels ? table[first + i] : fill;
  return x;
}

// The norm and activation of a term, for eight of its channels from c on.
struct Seen {
  Chunk scale, shift;
  int32_t activation;

  LASFAST_DEVICE Seen(const PassArgs& pass, int32_t norm, int32_t activation, int channels, int c)
      : scale(load_some(pass.scale, norm < 0 ? -1 : norm + c, channels - c, 1.f)),
        shift(load_some(pass.shift, norm < 0 ? -1 : norm + c, channels - c, 0.f)),
        activation(activation) {}
  LASFAST_DEVICE Seen(const PassArgs& pass, const Term& term, int c)
      : Seen(pass, term.norm, term.activation, term.channels, c) {}

  LASFAST_DEVICE void normalize(Chunk& x) const {
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) x.v[i] = x.v[i] * scale.v[i] + shift.v[i];
  }
  LASFAST_DEVICE void operator()(Chunk& x) const {
    normalize(x);
    activate(x.v, activation);
  }
};

// What follows op(...), for eight channels of the output from c on.
template <typename T>
struct Finish {
  const PassArgs& pass;
  const Problem& p;
  int c;
  Seen other, output;

  LASFAST_DEVICE Finish(const PassArgs& pass, const Problem& p, int c)
      : pass(pass),
        p(p),
        c(c),
        other(pass, p.adds ? p.other.norm : -1, p.other.activation, p.other.channels, c),
        output(pass, p.norm, p.activation, p.out_channels, c) {
    // norm(x + bias) = scale * x + (scale * bias + shift)
    const Chunk bias = load_some(pass.biases, p.bias < 0 ? -1 : p.bias + c, p.out_channels - c, 0.f);
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) output.shift.v[i] += output.scale.v[i] * bias.v[i];
  }

  LASFAST_DEVICE void store(Chunk x, int64_t position) const {
    output.normalize(x);
    const int with = p.adds ? p.other.channels - c : 0;
    if (with > 0) {
      Chunk y = load_chunk(static_cast<const T*>(pass.arena) + p.other.offset + position * p.other.pitch + c);
      other(y);
      LASFAST_UNROLL
      for (int i = 0; i < chunk; ++i) x.v[i] += i < with ? y.v[i] : 0.f;
    }
    activate(x.v, output.activation);
    const int channels = p.out_channels - c;
    if (p.leaf >= 0) {
      float* const to = pass.logits + (p.leaf * pass.logit_images + position) * p.out_channels + c;
      LASFAST_UNROLL
      for (int i = 0; i < chunk; ++i)
        if (i < channels) to[i] = x.v[i];
      return;
    }
    LASFAST_UNROLL
    for (int i = 0; i < chunk; ++i) x.v[i] = i < channels ? x.v[i] : 0.f;
    store_chunk(static_cast<T*>(pass.arena) + p.output + position * p.out_pitch + c, x);
  }
};

// The tile that a block computes.
struct Tile {
  int64_t row, first, end;  // row: its number among those of its channels; positions
  int column;               // first channel

  LASFAST_DEVICE Tile(const PassArgs& pass, const Problem& p) {
    const int64_t tile = device::block_index() - p.first_tile;
    const int64_t total = pass.count * p.out_height * p.out_width;
    row = tile / p.column_tiles;
    column = static_cast<int>(tile % p.column_tiles) * p.columns;
    first = row * p.rows;
    end = first + p.rows < total ? first + p.rows : total;
  }
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
  constexpr int words = sizeof(Problem) / sizeof(int32_t);
  static_assert(words <= schedule_threads, "a thread copies one word");
  if (thread < words) reinterpret_cast<int32_t*>(shared)[thread] = from[thread];
  device::barrier();
}

// Writes mean and squared deviations of each column of a tile in shared memory, of rows `pitch` floats apart.
// All threads of the block call it; what they wrote to the tile is in place.
LASFAST_DEVICE void take_statistics(const PassArgs& pass, const Problem& p, const Tile& tile,
                                    const float* values, int pitch, Moments* moments) {
  const int thread = device::thread_index();
  const int count = static_cast<int>(tile.end - tile.first);
  Column column = column_moments(values, pitch, count, p.columns, moments);
  if (thread >= p.columns || tile.column + thread >= p.out_pitch) return;
  const int c = tile.column + thread;
  if (p.bias >= 0 && c < p.out_channels) column.mean += pass.biases[p.bias + c];
  float* const partial = pass.partial + p.partial + 2 * tile.row * p.out_pitch + c;
  partial[0] = column.mean;
  partial[p.out_pitch] = column.deviations;
}

}  // namespace lasfast
