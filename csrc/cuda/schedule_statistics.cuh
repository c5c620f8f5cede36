// The statistics that an operation takes of its output: those of each tile in fp32, then those of all tiles
// in double, which become the norm's mean, variance, scale and shift (pool.cuh).
#pragma once

#include "pool.cuh"
#include "schedule_values.cuh"

namespace lasfast {

// Pools the statistics of tiles, where this block is the last that has any; all threads of the block call it.
// `row` and `column` are the tile's.
LASFAST_DEVICE void pool_statistics(const PassArgs& pass, const Problem& p, int row, int column,
                                    double* shared) {
  const PooledTiles tiles{pass.count * p.out_height * p.out_width,
                          p.rows,
                          p.columns,
                          p.out_pitch,
                          pass.partial + p.partial,
                          reinterpret_cast<double*>(pass.partial + p.pooled),
                          pass.counters + p.counters + column / p.columns * (1 + p.tile_groups)};
  const int c = column + device::thread_index() % p.columns;
  const bool some = c < p.out_channels;
  Pooled pooled;
  if (!tiles.pool_last(row, c, some, shared, &pooled)) return;
  if (!some || device::thread_index() >= p.columns) return;
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
