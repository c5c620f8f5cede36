// Sums over the rows of [rows, channels] values, always in the same order, so that the same inputs give the
// same bits on any GPU: blocks of rows leave partial sums, which a second kernel adds (merge.cuh).
//
// Rows are joined into *wide rows* of a whole number of vectors, so that any number of channels is read 16
// bytes at a time: 58 channels of bf16 are wide rows of 4 rows and 29 vectors. A block has some of the wide
// rows and a tile of at most `reduce_threads` of their columns; a thread has the columns of one vector, in
// one of every `at_once` of those rows.
#pragma once

#include <algorithm>
#include <numeric>

#include "block.h"
#include "device.cuh"
#include "lasfast/round.h"

namespace lasfast {

constexpr int reduce_threads = 256;

// Says how rows are cut into blocks, which depends on sizes alone.
struct WideRows {
  int64_t channels, width;     // width: columns of a wide row
  int64_t whole, tail;         // whole wide rows; values of one more that is not whole
  int64_t tile, tiles;         // columns of a tile, but for the last; tiles
  int64_t block_rows, blocks;  // wide rows of a block, but for the last; blocks, none where there are no rows
  int at_once;                 // wide rows that a block's threads have at once

  WideRows(int64_t rows, int64_t channels, int vector) : channels(channels) {
    constexpr int64_t most_blocks = 1024, least_rows = 64;  // sums have a tenth of the values' bytes at most
    constexpr int64_t together = 4;                         // rows that a thread reads at a time
    width = std::lcm(channels, int64_t{vector});
    whole = rows * channels / width;
    tail = rows * channels % width;
    const int64_t lanes = width / vector;
    tiles = divide_up(lanes, reduce_threads / vector);
    tile = divide_up(lanes, tiles) * vector;
    at_once = static_cast<int>(reduce_threads / (tile / vector));
    const int64_t worth = whole / std::max(least_rows, together * at_once);
    blocks = std::clamp<int64_t>(worth, 1, std::max<int64_t>(1, most_blocks / tiles));
    block_rows = std::max<int64_t>(1, divide_up(divide_up(whole, blocks), at_once)) * at_once;
    blocks = rows == 0 ? 0 : std::max<int64_t>(1, divide_up(whole, block_rows));
  }

  // Returns how many rows a column has in a block.
  LASFAST_DEVICE int64_t rows_of(int64_t block, int64_t column) const {
    if (block + 1 < blocks) return block_rows;
    return whole - block * block_rows + (column < tail ? 1 : 0);
  }
  int64_t launched_blocks() const { return blocks * tiles; }
  int64_t groups() const { return divide_up(blocks, pooled_tiles); }  // whose sums are added together
  int64_t counters() const { return tiles * groups() + 1; }           // of the blocks that have come
  int64_t partial_sums() const { return blocks * width; }             // of each kind that blocks leave
};

// The part of its block's values that a thread has, and the column that it answers for where there is one
// result for each column.
template <int vector>
struct Part {
  int64_t block, first_column;  // of the tile
  int columns;                  // of the tile
  int64_t column;               // first of the thread's vector
  int64_t row, end;             // wide rows row, row + at_once, ... below end
  int at_once, tail;            // tail: how many values of the one that is not whole

  LASFAST_DEVICE explicit Part(const WideRows& rows) : at_once(rows.at_once) {
    block = device::block_index() / rows.tiles;
    first_column = device::block_index() % rows.tiles * rows.tile;
    const int64_t left = rows.width - first_column;
    columns = static_cast<int>(left < rows.tile ? left : rows.tile);
    const int lanes = static_cast<int>(rows.tile) / vector;
    const int lane = device::thread_index() % lanes, begin = device::thread_index() / lanes;
    column = first_column + lane * vector;
    const bool some = begin < at_once && column < rows.width;
    const int64_t first = block * rows.block_rows;
    const int64_t last = first + rows.block_rows;
    row = first + begin;
    end = !some ? 0 : last < rows.whole ? last : rows.whole;
    const bool has_tail = some && begin == 0 && block + 1 == rows.blocks && column < rows.tail;
    tail = !has_tail ? 0 : rows.tail - column < vector ? static_cast<int>(rows.tail - column) : vector;
  }

  LASFAST_DEVICE bool answers() const { return device::thread_index() < columns; }
  LASFAST_DEVICE int64_t own_column() const { return first_column + device::thread_index(); }
};

// Calls pass.run<n, true>(row, vector) for `n` of the thread's wide rows at a time, `at_once` apart, and
// pass.run<1, false>(row, count) for the first `count` values of a vector in the row that is not whole.
template <int together, int vector, class Pass>
LASFAST_DEVICE void for_rows(const WideRows& rows, const Part<vector>& part, Pass& pass) {
  int64_t row = part.row;
  const int64_t step = part.at_once;
  for (; row + (together - 1) * step < part.end; row += together * step)
    pass.template run<together, true>(row, vector);
  for (; row < part.end; row += step) pass.template run<1, true>(row, vector);
  if (vector > 1 && part.tail > 0) pass.template run<1, false>(rows.whole, part.tail);
}

// Two sums of each column that one thread has.
template <int vector>
struct TwoSums {
  float first[vector] = {}, second[vector] = {};
};

// What add_up needs of shared memory.
template <int vector>
struct SumsOfThreads {
  float v[2 * reduce_threads * vector];
};

// Adds up what all threads of the block have. The thread that answers for a column gets its two sums.
template <int vector>
LASFAST_DEVICE void add_up(const WideRows& rows, const Part<vector>& part, const TwoSums<vector>& own,
                           SumsOfThreads<vector>* shared, double (&sums)[2]) {
  const int thread = device::thread_index(), tile = static_cast<int>(rows.tile);
  const int lanes = tile / vector, begin = thread / lanes;
  const auto at = [&](int which, int row, int column) -> float& {
    return shared->v[(which * part.at_once + row) * tile + column];
  };
  if (begin < part.at_once && part.column < rows.width) {
    LASFAST_UNROLL
    for (int i = 0; i < vector; ++i) {
      at(0, begin, thread % lanes * vector + i) = own.first[i];
      at(1, begin, thread % lanes * vector + i) = own.second[i];
    }
  }
  device::barrier();
  // First by as many threads per column as there are, then by one.
  const int groups = reduce_threads / tile < part.at_once ? reduce_threads / tile : part.at_once;
  const int group = thread / tile, column = thread % tile;
  if (group < groups && column < part.columns) {
    float first = 0.f, second = 0.f;
    for (int row = group; row < part.at_once; row += groups) {
      first += at(0, row, column);
      second += at(1, row, column);
    }
    at(0, group, column) = first;  // which no other thread has read
    at(1, group, column) = second;
  }
  device::barrier();
  sums[0] = sums[1] = 0.0;
  if (!part.answers()) return;
  for (int i = 0; i < groups; ++i) {
    sums[0] += at(0, i, thread);
    sums[1] += at(1, i, thread);
  }
}

}  // namespace lasfast
