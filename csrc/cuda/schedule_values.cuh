// What the kernels of a schedule share: how an operation sees a value, what follows op(...), and which tile a
// block is to compute.
#pragma once

#include "activation.cuh"
#include "chunk.cuh"
#include "device.cuh"
#include "schedule_problem.h"

namespace lasfast {

// The image, row and column of an output position, by its number.
struct Position {
  int64_t image;
  int y, x;

  LASFAST_DEVICE Position(const Problem& p, int64_t at) {
    const auto position = static_cast<uint32_t>(at);
    x = static_cast<int>(position % p.out_width);
    y = static_cast<int>(position / p.out_width % p.out_height);
    image = position / p.out_width / p.out_height;
  }
};

// Returns n values of a table from `first` on. It has `channels` there; behind these, and where `first` is
// negative, the values are `fill`.
template <int n>
LASFAST_DEVICE Values<n> load_some(const float* table, int64_t first, int channels, float fill) {
  Values<n> x;
  LASFAST_UNROLL
  for (int i = 0; i < n; ++i) x.v[i] = first >= 0 && i < channels ? table[first + i] : fill;
  return x;
}

// Where a thread reads and writes a value of the schedule: channels from c on, of any position.
template <typename T>
struct Place {
  T* first;
  int pitch;

  LASFAST_DEVICE Place(const PassArgs& pass, int64_t offset, int pitch, int c)
      : first(static_cast<T*>(pass.arena) + offset + c), pitch(pitch) {}
  LASFAST_DEVICE Place(const PassArgs& pass, const Term& term, int c)
      : Place(pass, term.offset, term.pitch, c) {}

  template <int n = chunk>
  LASFAST_DEVICE Values<n> load(int64_t position) const {
    return load_chunk(first + position * pitch);
  }
  LASFAST_DEVICE float load_one(int64_t position) const { return device::to_float(first[position * pitch]); }
  LASFAST_DEVICE void store(int64_t position, const Chunk& x) const {
    store_chunk(first + position * pitch, x);
  }
};

// The norm and activation with which an operation sees a term: for n of its channels, from c on.
template <int n = chunk>
struct Seen {
  Values<n> scale, shift;
  Activation activation;

  LASFAST_DEVICE Seen(const PassArgs& pass, int32_t norm, Activation activation, int channels, int c)
      : scale(load_some<n>(pass.scale, norm < 0 ? -1 : norm + c, channels - c, 1.f)),
        shift(load_some<n>(pass.shift, norm < 0 ? -1 : norm + c, channels - c, 0.f)),
        activation(activation) {}
  LASFAST_DEVICE Seen(const PassArgs& pass, const Term& term, int c)
      : Seen(pass, term.norm, term.activation, term.channels, c) {}

  LASFAST_DEVICE void normalize(Values<n>& x) const {
    LASFAST_UNROLL
    for (int i = 0; i < n; ++i) x.v[i] = x.v[i] * scale.v[i] + shift.v[i];
  }
  LASFAST_DEVICE void operator()(Values<n>& x) const {
    normalize(x);
    activate(x.v, activation);
  }
};

// What follows op(...) for n channels of the output, from c on: its norm, a sum, its activation and the
// store.
template <typename T, int n = chunk>
struct Finish {
  const PassArgs& pass;
  const Problem& p;
  int c;
  Seen<n> other, output;

  LASFAST_DEVICE Finish(const PassArgs& pass, const Problem& p, int c)
      : pass(pass),
        p(p),
        c(c),
        other(pass, p.adds ? p.other.norm : -1, p.other.activation, p.other.channels, c),
        output(pass, p.norm, p.activation, p.out_channels, c) {
    // norm(x + bias) = scale * x + (scale * bias + shift)
    const Values<n> bias = load_some<n>(pass.biases, p.bias < 0 ? -1 : p.bias + c, p.out_channels - c, 0.f);
    LASFAST_UNROLL
    for (int i = 0; i < n; ++i) output.shift.v[i] += output.scale.v[i] * bias.v[i];
  }

  LASFAST_DEVICE void store(Values<n> x, int64_t position) const {
    output.normalize(x);
    const int with = p.adds ? p.other.channels - c : 0;
    if (with > 0) {
      Values<n> y = Place<T>(pass, p.other, c).template load<n>(position);
      other(y);
      LASFAST_UNROLL
      for (int i = 0; i < n; ++i) x.v[i] += i < with ? y.v[i] : 0.f;
    }
    activate(x.v, output.activation);
    const int channels = p.out_channels - c;
    if (p.leaf >= 0) {
      float* const logits =
          pass.logits + (p.leaf * pass.logit_images + pass.first + position) * p.out_channels + c;
      store_first(logits, x, channels);
      return;
    }
    LASFAST_UNROLL
    for (int i = 0; i < n; ++i) x.v[i] = i < channels ? x.v[i] : 0.f;
    Place<T>(pass, p.output, p.out_pitch, c).store(position, x);
  }
};

// A tile of a problem's output: positions first .. end - 1, and p.columns channels from `column` on.
struct Tile {
  int first, end, column;

  LASFAST_DEVICE Tile(const PassArgs& pass, const Problem& p, int64_t tile) {
    const int64_t total = pass.count * p.out_height * p.out_width;
    column = static_cast<int>(tile % p.column_tiles) * p.columns;
    // The last tile ends below 2^31 (check_plan); ints take fewer registers.
    first = static_cast<int>(tile / p.column_tiles) * p.rows;
    end = static_cast<int>(first + p.rows < total ? first + p.rows : total);
  }
  // The tile of this block, where the blocks of a launch are the tiles of its problems.
  LASFAST_DEVICE Tile(const PassArgs& pass, const Problem& p)
      : Tile(pass, p, device::block_index() - p.first_tile) {}
  LASFAST_DEVICE bool empty() const { return first >= end; }  // fewer images than the plan is for
};

// Copies the problem that this block works on to shared memory, and returns it once what is queued before the
// launch has ended: the plan alone is there sooner. `number` becomes its number among those of the launch.
LASFAST_DEVICE const Problem& find_problem(const PassArgs& pass, Problem* shared, int* number = nullptr) {
  auto* const found = reinterpret_cast<int32_t*>(shared);
  const int thread = device::thread_index();
  const int64_t block = device::block_index();
  for (int64_t i = thread; i < pass.problem_count; i += block_threads)
    if (pass.problems[i].first_tile <= block &&
        (i + 1 == pass.problem_count || block < pass.problems[i + 1].first_tile))
      *found = static_cast<int32_t>(i);
  device::barrier();
  const auto* const from = reinterpret_cast<const int32_t*>(pass.problems + *found);
  if (number) *number = *found;
  device::barrier();
  if (thread < static_cast<int>(sizeof(Problem) / sizeof(int32_t)))
    reinterpret_cast<int32_t*>(shared)[thread] = from[thread];
  device::wait_for_earlier();
  device::let_next_begin();
  device::barrier();
  return *shared;
}

}  // namespace lasfast
