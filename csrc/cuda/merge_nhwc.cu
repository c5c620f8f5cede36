// The second stages of passes over NHWC values: partial results of tiles, or of parts of the positions, are
// added in double, and in an order that sizes alone decide, so that results have the same bits every time.
#include "merge.cuh"
#include "nhwc.cuh"

namespace lasfast {
namespace {

// ---- statistics

LASFAST_KERNEL(merge_threads, 2)
statistics(const StatisticsArgs args) {
  device::wait_for_earlier();
  device::let_next_begin();
  const Merge merge;
  const int64_t c = merge.channel, first = c < args.channels ? merge.segment : args.items;
  const auto count = [&](int64_t i) {
    const int64_t rest = args.total - i * args.each;
    return static_cast<double>(rest < args.each ? rest : args.each);
  };
  double sum = 0;
  for (int64_t i = first; i < args.items; i += merge_segments)
    sum += count(i) * static_cast<double>(args.partial[2 * i * args.channels + c]);
  const double mean = merge.sum(sum) / static_cast<double>(args.total);
  double deviations = 0;
  for (int64_t i = first; i < args.items; i += merge_segments) {
    const float* const partial = args.partial + 2 * i * args.channels + c;
    const double delta = static_cast<double>(partial[0]) - mean;
    deviations += static_cast<double>(partial[args.channels]) + count(i) * delta * delta;
  }
  const double variance = merge.sum(deviations) / static_cast<double>(args.total);
  if (!merge.answers(args.channels)) return;
  args.mean[c] = static_cast<float>(mean);
  args.variance[c] = static_cast<float>(variance);
}

// ---- sums. A block has 32 columns of some rows, and each warp adds one run of the parts of four of these
// rows. The results change places in shared memory, so that neighbours in the gradient are written together.

constexpr int threads = 256, tile_columns = 32, warps = threads / 32, warp_rows = 4;

struct Sums {
  MergeArgs args;
  int64_t rows, row_tiles;
  int runs;  // of parts: 1, 2, 4 or 8

  int64_t tile_rows() const { return warps / runs * warp_rows; }
};

LASFAST_KERNEL(threads, 2)
merge_sums(const Sums sums) {
  device::wait_for_earlier();
  device::let_next_begin();
  using Row = double[tile_columns + 1];
  auto* const shared = device::shared<Row>();  // [warps * warp_rows]
  const MergeArgs& args = sums.args;
  const int thread = device::thread_index(), warp = thread / 32, runs = sums.runs;
  const int64_t tile = device::block_index() % sums.row_tiles;
  const int64_t first_column = device::block_index() / sums.row_tiles * tile_columns;
  const int tile_rows = warps / runs * warp_rows;
  const int64_t first_row = tile * tile_rows;

  const int64_t column = first_column + thread % 32, row = first_row + warp / runs * warp_rows;
  double sum[warp_rows] = {};
  if (column < args.columns)
    for (int part = warp % runs; part < args.parts; part += runs) LASFAST_UNROLL
  for (int i = 0; i < warp_rows; ++i)
    if (row + i < sums.rows)
      sum[i] += static_cast<double>(args.partial[(part * sums.rows + row + i) * args.columns + column]);
  LASFAST_UNROLL
  for (int i = 0; i < warp_rows; ++i) shared[warp * warp_rows + i][thread % 32] = sum[i];
  device::barrier();

  for (int i = thread; i < tile_rows * tile_columns; i += threads) {
    const int at = i % tile_rows, of = i / tile_rows;
    const int64_t k = first_row + at, c = first_column + of;
    if (k >= sums.rows || c >= args.columns) continue;
    double total = 0;
    for (int run = 0; run < runs; ++run)
      total += shared[(at / warp_rows * runs + run) * warp_rows + at % warp_rows][of];
    const int64_t tap = k / args.channels, channel = k % args.channels;
    args.grad_weight[c * args.stride[0] + channel * args.stride[1] + tap / args.kernel * args.stride[2] +
                     tap % args.kernel * args.stride[3]] = static_cast<float>(total);
  }
}

}  // namespace

int launch_statistics(const StatisticsArgs& args, device::Stream stream, bool early) {
  return device::launch(statistics, merge_blocks(args.channels), merge_threads, merge_shared_bytes, stream,
                        args, early);
}

int launch_merge_sums(const MergeArgs& args, device::Stream stream, bool early) {
  Sums sums{args, int64_t{args.kernel} * args.kernel * args.channels, 0, 1};
  while (sums.runs < warps && sums.runs * 8 < args.parts) sums.runs *= 2;
  sums.row_tiles = divide_up(sums.rows, sums.tile_rows());
  return device::launch(merge_sums, sums.row_tiles * divide_up(args.columns, tile_columns), threads,
                        warps * warp_rows * int64_t{sizeof(double[tile_columns + 1])}, stream, sums, early);
}

}  // namespace lasfast
