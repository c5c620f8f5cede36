// The second stage of the sums of batch norm's gradient: by the blocks that have taken them, in double, and
// in an order that sizes alone decide, so that results have the same bits every time.
#pragma once

#include "bn_act_kernels.cuh"
#include "pool.cuh"

namespace lasfast {

// Adds up what the blocks of a group have left of the columns of their tile, where this block is the last of
// these, and of all channels, where it is the last of all. All threads of the block call it.
template <int vector>
LASFAST_DEVICE void add_last(const BnActArgs& a, const Part<vector>& part, double* shared) {
  static_assert(reduce_threads == block_threads, "threads of a block have a column together");
  const BnActSums& last = a.last;
  const int thread = device::thread_index();
  const int64_t width = a.rows.width, group = part.block / pooled_tiles, first = group * pooled_tiles;
  const int64_t tile = device::block_index() % a.rows.tiles;
  const auto in_group =
      static_cast<int>(a.rows.blocks - first < pooled_tiles ? a.rows.blocks - first : pooled_tiles);
  if (!device::is_last_block(last.arrived + 1 + tile * last.groups + group, in_group)) return;
  // Calls write(which, column, sum) for both sums over the parts of some columns.
  const auto add = [&](int columns, int parts, const auto& of, const auto& write) {
    const int segments = block_threads / columns, segment = thread / columns;
    LASFAST_ROLL  // registers are few where 16 bytes are read at once
        for (int which = 0; which < 2; ++which) {
      double own = 0;
      if (segment < segments)
        for (int i = segment; i < parts; i += segments) own += of(which, thread % columns, i);
      own = sum_of_column(own, columns, shared);
      if (thread < columns) write(which, thread, own);
    }
  };
  add(
      part.columns, in_group,
      [&](int which, int column, int i) {
        const float* const from =
            a.partial + (bn_act_partials * (first + i) + which) * width + part.first_column;
        return static_cast<double>(device::load_written(from + column));
      },
      [&](int which, int column, double sum) {
        last.of_groups[(2 * group + which) * width + part.first_column + column] = sum;
      });
  if (!device::is_last_block(last.arrived, static_cast<int>(last.groups * a.rows.tiles))) return;
  const int64_t channels = a.rows.channels;
  const auto repeats = static_cast<int>(width / channels);  // columns of a channel
  for (int64_t c = 0; c < channels; c += block_threads) {
    const auto some = static_cast<int>(channels - c < block_threads ? channels - c : block_threads);
    add(
        some, static_cast<int>(last.groups) * repeats,
        [&](int which, int channel, int i) {
          const int64_t column = c + channel + i % repeats * channels;
          return device::load_written(last.of_groups + (2 * int64_t{i / repeats} + which) * width + column);
        },
        [&](int which, int channel, double sum) {
          const int64_t at = c + channel;
          last.sums[which * channels + at] = sum;
          if (which == 0 && last.bias) last.bias[at] = static_cast<float>(sum);
          if (which == 1 && last.weight)
            last.weight[at] = static_cast<float>(
                sum / device::sqrt(static_cast<double>(a.var[at]) + static_cast<double>(a.eps)));
        });
  }
  if (thread == 0) last.sums[2 * channels] = last.values;
}

}  // namespace lasfast
