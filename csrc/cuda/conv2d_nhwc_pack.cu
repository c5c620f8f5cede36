// Packs slices of weights into the rows that the main loop reads: many in one launch, whose argument has them
// all. A block has 32 rows of 32 elements: they are read along whichever side is closer together in the
// weight, and change places in shared memory.
#include "block.h"
#include "conv2d_nhwc.cuh"
#include "k_order.cuh"

namespace lasfast {
namespace {

constexpr int threads = 256, side = 32;

// Where an element of a packed row is in the weight.
struct Tap {
  int r, s, channel;  // r is negative where the element is a zero behind k

  LASFAST_DEVICE Tap(const PackArgs& w, int phase, int k, int step_elements) : r(-1), s(0), channel(0) {
    const int y = phase / w.phases, x = phase % w.phases;
    const int taps_y = (w.kernel - y + w.step - 1) / w.step, taps_x = (w.kernel - x + w.step - 1) / w.step;
    const KElement element(k, taps_y * taps_x, run_of(w.in_channels, step_elements));
    if (element.channel >= w.in_channels) return;
    channel = element.channel;
    r = element.tap / taps_x, s = element.tap % taps_x;
    if (w.transposed) r = y + (taps_y - 1 - r) * w.step, s = x + (taps_x - 1 - s) * w.step;
  }
};

template <int most>
struct Packings {
  int32_t count;
  bool tf32;
  PackArgs args[most];
};
static_assert(sizeof(Packings<most_packed>) <= 4096, "a kernel's argument is no larger");

template <typename From, typename To, int most>
LASFAST_KERNEL(threads, 2)
pack_windows(const Packings<most> packings) {
  device::wait_for_earlier();
  device::let_next_begin();
  int number = 0;
  while (number + 1 < packings.count && packings.args[number + 1].first_block <= device::block_index())
    ++number;
  const PackArgs& args = packings.args[number];
  const int64_t block = device::block_index() - args.first_block;
  using Row = float[side + 1];
  auto* const tile = device::shared<Row>();  // [rows][elements]
  const int across = args.depth > 0 ? (args.depth + side - 1) / side : 1,
            down = (args.out_channels + side - 1) / side;
  const int first_k = static_cast<int>(block % across) * side;
  const int first_row = static_cast<int>(block / across % down) * side;
  const int phase = static_cast<int>(block / across / down);
  const int64_t of_row = args.transposed ? args.stride[1] : args.stride[0];
  const int64_t of_channel = args.transposed ? args.stride[0] : args.stride[1];
  const bool along_rows = (of_row < 0 ? -of_row : of_row) < (of_channel < 0 ? -of_channel : of_channel);
  for (int i = device::thread_index(); i < side * side; i += threads) {
    const int row = along_rows ? i % side : i / side, k = along_rows ? i / side : i % side;
    const Tap tap(args, phase, first_k + k, conv_step_bytes / sizeof(To));
    float value = 0.f;
    if (tap.r >= 0 && first_row + row < args.out_channels)
      value = device::to_float(
          static_cast<const From*>(args.weight)[(first_row + row) * of_row + tap.channel * of_channel +
                                                tap.r * args.stride[2] + tap.s * args.stride[3]]);
    tile[row][k] = value;
  }
  for (int64_t i = block * threads + device::thread_index(); i < args.counter_count;
       i += args.blocks * threads)
    args.counters[i] = 0;
  device::barrier();
  To* const packed = static_cast<To*>(args.packed) + int64_t{phase} * args.out_channels * args.depth;
  for (int i = device::thread_index(); i < side * side; i += threads) {
    const int row = first_row + i / side, k = first_k + i % side;
    if (row < args.out_channels && k < args.depth)
      packed[int64_t{row} * args.depth + k] = packed_weight<To>(tile[i / side][i % side], packings.tf32);
  }
}

template <typename From, typename To, int most>
int launch(const PackArgs* args, int count, bool tf32, device::Stream stream) {
  Packings<most> packings{};
  packings.count = count, packings.tf32 = tf32;
  int64_t blocks = 0;
  for (int i = 0; i < count; ++i) {
    packings.args[i] = args[i];
    packings.args[i].first_block = blocks;
    blocks += args[i].blocks;
  }
  if (blocks == 0) return 0;
  if (blocks > device::max_blocks) return -1;
  return device::launch(pack_windows<From, To, most>, blocks, threads,
                        side * int64_t{sizeof(float[side + 1])}, stream, packings);
}

}  // namespace

int64_t counters_at(const Windows& windows, Dtype packed) {
  return round_to(windows.packed_elements() * itemsize(packed), 16);
}

PackArgs::PackArgs(const Conv2dNhwcParams& p, const Windows& windows, const void* weight, void* packed)
    : weight(weight),
      stride{},
      packed(packed),
      counters(reinterpret_cast<uint32_t*>(static_cast<char*>(packed) + counters_at(windows, p.storage))),
      counter_count(windows.counters()),
      first_block(0),
      blocks(int64_t{windows.packed_phases} * windows.packed_phases * divide_up(windows.out_channels, side) *
             (windows.depth > 0 ? divide_up(windows.depth, side) : 1)),
      in_channels(windows.in_channels),
      out_channels(windows.out_channels),
      kernel(windows.kernel),
      depth(windows.depth),
      phases(windows.packed_phases),
      step(windows.transposed ? windows.stride : 1),
      transposed(windows.transposed) {
  for (int i = 0; i < 4; ++i) stride[i] = p.weight_stride[i];
}

int launch_pack(const PackArgs* args, int count, Dtype weight, Dtype packed, bool tf32,
                device::Stream stream) {
  using device::bfloat16;
  const bool from = weight == Dtype::bfloat16, to = packed == Dtype::bfloat16;
  // Those of one weight have an argument of their own size.
  const auto run = [&](auto one, auto many) {
    return count <= 2 ? one(args, count, tf32, stream) : many(args, count, tf32, stream);
  };
  if (from && to) return run(launch<bfloat16, bfloat16, 2>, launch<bfloat16, bfloat16, most_packed>);
  if (from) return run(launch<bfloat16, float, 2>, launch<bfloat16, float, most_packed>);
  if (to) return run(launch<float, bfloat16, 2>, launch<float, bfloat16, most_packed>);
  return run(launch<float, float, 2>, launch<float, float, most_packed>);
}

}  // namespace lasfast
