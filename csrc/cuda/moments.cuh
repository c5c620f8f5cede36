// Mean and squared deviations of the columns of a tile, without cancellation, and in a fixed order, so that
// they have the same bits every time.
#pragma once

#include "block.h"
#include "device.cuh"

namespace lasfast {

struct Column {
  float mean = 0.f, deviations = 0.f;
};

struct alignas(8) Moments {
  float mean[block_threads], deviations[block_threads];
};

// Returns, to thread i, those of column i of a tile in shared memory: `columns` columns of `count` rows,
// `pitch` floats apart. All threads of the block call it, once what they wrote to the tile is in place.
LASFAST_DEVICE Column column_moments(const float* values, int pitch, int count, int columns,
                                     Moments* moments) {
  const int thread = device::thread_index();
  const int groups = block_threads / columns, group = thread / columns, column = thread % columns;
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
  Column result;
  if (thread >= columns) return result;
  float seen = 0.f;
  for (int g = 0; g < groups && g < count; ++g) {
    const float n = static_cast<float>((count - g + groups - 1) / groups);
    const float delta = moments->mean[g * columns + thread] - result.mean;
    result.mean += delta * (n / (seen + n));
    result.deviations += moments->deviations[g * columns + thread] + delta * delta * (seen * n / (seen + n));
    seen += n;
  }
  return result;
}

// Writes those of channel c in tile number `row` to partial [tiles][mean, squared deviations][channels].
LASFAST_DEVICE void store_moments(const Column& column, float* partial, int64_t row, int64_t channels,
                                  int64_t c) {
  float* const to = partial + 2 * row * channels + c;
  to[0] = column.mean;
  to[channels] = column.deviations;
}

}  // namespace lasfast
