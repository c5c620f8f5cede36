// What follows the main loop of a schedule's convolutions, however their operands were copied.
#pragma once

#include "conv_mainloop.cuh"
#include "schedule_statistics.cuh"
#include "schedule_values.cuh"

namespace lasfast {

// Takes statistics of a tile's sums where the operation has some, finishes the sums and stores them.
template <typename T, typename Result>
LASFAST_DEVICE void store_tile(const PassArgs& pass, const Problem& p, const Tile& tile, Result& result) {
  if (p.partial >= 0) take_statistics(pass, p, tile, result.values, result.pitch, &result.moments);
  const int column = tile.column + result.own_column();
  if (column >= p.out_pitch) return;
  const Finish<T> finish(pass, p, column);
  result.for_own_chunks(static_cast<int>(tile.end - tile.first),
                        [&](int row, const Chunk& x) { finish.store(x, tile.first + row); });
}

}  // namespace lasfast
