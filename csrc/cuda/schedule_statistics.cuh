// The statistics that an operation takes of its output: those of each tile in fp32, then those of all tiles
// in double.
//
// The tiles of some columns are cut into groups. The block that comes last in its group pools the statistics
// of the group's tiles, and the block that is the last of these pools those of the groups: they become the
// norm's mean, variance, scale and shift. Chance decides which blocks these are, but the order in which they
// add is fixed, so that results have the same bits every time.
#pragma once

#include "moments.cuh"
#include "schedule_values.cuh"

namespace lasfast {

// Statistics of some values.
struct Pooled {
  double count, mean, deviations;
};

// Returns the sum of what the threads of a column have; thread t is one of column t % columns. All threads of
// the block call it.
LASFAST_DEVICE double sum_of_column(double own, int columns, double* shared) {
  const int thread = device::thread_index();
  device::barrier();  // all are done with what was there before
  shared[thread] = own;
  device::barrier();
  double sum = 0;
  for (int i = thread % columns; i < block_threads / columns * columns; i += columns) sum += shared[i];
  return sum;
}

// Pools the statistics of(0) .. of(parts - 1) of each column, which are of `count` values together. This is
// Chan's formula for all parts at once, with means taken from that of the first one, so that none cancel.
template <typename Of>
LASFAST_DEVICE Pooled pool(double count, int columns, int parts, double* shared, const Of& of) {
  const int segment = device::thread_index() / columns, segments = block_threads / columns;
  const double first = parts > 0 ? of(0).mean : 0;
  double above = 0, deviations = 0;
  if (segment < segments) LASFAST_UNROLL
  for (int i = segment; i < parts; i += segments) {
    const Pooled part = of(i);
    const double apart = part.mean - first;
    above += part.count * apart;
    deviations += part.deviations + part.count * apart * apart;
  }
  above = sum_of_column(above, columns, shared);
  deviations = sum_of_column(deviations, columns, shared) - above * (above / count);
  return {count, first + above / count, deviations < 0 ? 0 : deviations};
}

// Pools the statistics of tiles, where this block is the last that has any; all threads of the block call it.
// `row` and `column` are the tile's.
LASFAST_DEVICE void pool_statistics(const PassArgs& pass, const Problem& p, int row, int column,
                                    double* shared) {
  const int64_t total = pass.count * p.out_height * p.out_width;
  const int tiles = static_cast<int>((total + p.rows - 1) / p.rows);
  const int groups = (tiles + pooled_tiles - 1) / pooled_tiles;
  const int group = row / pooled_tiles, first = group * pooled_tiles;
  const int in_group = tiles - first < pooled_tiles ? tiles - first : pooled_tiles;
  uint32_t* const arrived = pass.counters + p.counters + column / p.columns * (1 + p.tile_groups);
  if (!device::is_last_block(arrived + 1 + group, in_group)) return;

  const int c = column + device::thread_index() % p.columns;
  const bool some = c < p.out_channels, answers = some && device::thread_index() < p.columns;
  const auto values_of = [&](int64_t from, int64_t each) {
    return static_cast<double>(total - from < each ? total - from : each);
  };
  const int64_t rows = p.rows, group_rows = rows * pooled_tiles;
  Pooled pooled =
      pool(values_of(first * rows, group_rows), p.columns, some ? in_group : 0, shared, [&](int i) {
        const float* const partial = pass.partial + p.partial + 2 * int64_t{first + i} * p.out_pitch + c;
        return Pooled{values_of((first + i) * rows, rows), device::load_written(partial),
                      device::load_written(partial + p.out_pitch)};
      });
  if (groups > 1) {
    double* const of_groups = reinterpret_cast<double*>(pass.partial + p.pooled) + c;
    if (answers) {
      of_groups[2 * int64_t{group} * p.out_pitch] = pooled.mean;
      of_groups[(2 * int64_t{group} + 1) * p.out_pitch] = pooled.deviations;
    }
    if (!device::is_last_block(arrived, groups)) return;
    pooled = pool(static_cast<double>(total), p.columns, some ? groups : 0, shared, [&](int i) {
      const double* const of_group = of_groups + 2 * int64_t{i} * p.out_pitch;
      return Pooled{values_of(i * group_rows, group_rows), device::load_written(of_group),
                    device::load_written(of_group + p.out_pitch)};
    });
  }
  if (!answers) return;
  const int64_t at = p.statistics + c;
  const double variance = pooled.deviations / pooled.count;
  const double scale = pass.gamma[at] / device::sqrt(variance + static_cast<double>(p.eps));
  pass.mean[at] = static_cast<float>(pooled.mean);
  pass.variance[at] = static_cast<float>(variance);
  pass.scale[at] = static_cast<float>(scale);
  pass.shift[at] = static_cast<float>(pass.beta[at] - pooled.mean * scale);
}

// Takes the statistics of a tile in shared memory, whose rows are `pitch` floats apart. All threads of the
// block call it, once what they wrote to the tile is in place.
LASFAST_DEVICE void take_statistics(const PassArgs& pass, const Problem& p, const Tile& tile,
                                    const float* values, int pitch, Moments* moments) {
  const int thread = device::thread_index(), c = tile.column + thread;
  const int count = tile.end - tile.first, row = tile.first / p.rows;
  Column column = column_moments(values, pitch, count, p.columns, moments);
  if (thread < p.columns && c < p.out_pitch) {
    if (p.bias >= 0 && c < p.out_channels) column.mean += pass.biases[p.bias + c];
    store_moments(column, pass.partial + p.partial, row, p.out_pitch, c);
  }
  static_assert(sizeof(Moments) >= block_threads * sizeof(double) && alignof(Moments) >= alignof(double));
  pool_statistics(pass, p, row, tile.column, reinterpret_cast<double*>(moments));
}

}  // namespace lasfast
