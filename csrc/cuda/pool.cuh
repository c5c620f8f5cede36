// The statistics of columns of many tiles, pooled by the blocks that have computed the tiles, in double.
//
// The tiles of some columns are cut into groups. The block that comes last in its group pools the statistics
// of the group's tiles, and the block that is the last of these pools those of the groups. Chance decides
// which blocks these are, but the order in which they add is fixed, so that results have the same bits every
// time.
#pragma once

#include "moments.cuh"

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

// The tiles of some columns, which are one below the other.
struct PooledTiles {
  int64_t total, rows;  // of a column; of a tile, but for the last
  int columns, pitch;   // columns of a tile, and from tile to tile
  float* partial;       // [tiles][mean, squared deviations][pitch]
  double* of_groups;    // [groups][mean, squared deviations][pitch]
  uint32_t* arrived;    // 1 + groups counters of the blocks that have come: zeros, before and behind

  LASFAST_DEVICE double values_of(int64_t from, int64_t each) const {
    return static_cast<double>(total - from < each ? total - from : each);
  }

  // Where this block is the last of all, returns true and the statistics of column c, which is in the pitch
  // if it is there at all (`some`). `row` is the number of the block's tile, whose own have been stored. All
  // threads of the block call it; thread t has column t % columns of the tile.
  LASFAST_DEVICE bool pool_last(int row, int c, bool some, double* shared, Pooled* result) const {
    const int tiles = static_cast<int>((total + rows - 1) / rows);
    const int groups = (tiles + pooled_tiles - 1) / pooled_tiles;
    const int group = row / pooled_tiles, first = group * pooled_tiles;
    const int in_group = tiles - first < pooled_tiles ? tiles - first : pooled_tiles;
    if (!device::is_last_block(arrived + 1 + group, in_group)) return false;
    const int64_t group_rows = rows * pooled_tiles;
    *result = pool(values_of(first * rows, group_rows), columns, some ? in_group : 0, shared, [&](int i) {
      const float* const of_tile = partial + 2 * int64_t{first + i} * pitch + c;
      return Pooled{values_of((first + i) * rows, rows), device::load_written(of_tile),
                    device::load_written(of_tile + pitch)};
    });
    if (groups == 1) return true;
    double* const to = of_groups + c;
    if (some && device::thread_index() < columns) {
      to[2 * int64_t{group} * pitch] = result->mean;
      to[(2 * int64_t{group} + 1) * pitch] = result->deviations;
    }
    if (!device::is_last_block(arrived, groups)) return false;
    *result = pool(static_cast<double>(total), columns, some ? groups : 0, shared, [&](int i) {
      const double* const of_group = to + 2 * int64_t{i} * pitch;
      return Pooled{values_of(i * group_rows, group_rows), device::load_written(of_group),
                    device::load_written(of_group + pitch)};
    });
    return true;
  }
};

}  // namespace lasfast
