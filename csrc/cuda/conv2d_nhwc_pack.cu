// Packs a slice of a weight into the rows that the main loop reads. A block has 32 rows of 32 elements: they
// are read along whichever side is closer together in the weight, and change places in shared memory.
#include "block.h"
#include "conv2d_nhwc.cuh"
#include "k_order.cuh"

namespace lasfast {
namespace {

constexpr int threads = 256, side = 32;

// Where an element of a packed row is in the weight.
struct Tap {
  int r, s, channel;  // r is negative where the element is a zero behind k

  LASFAST_DEVICE Tap(const Windows& w, int phase, int k, int step_elements) : r(-1), s(0), channel(0) {
    // Every step-th tap is of this phase, along each axis.
    const int step = w.transposed ? w.stride : 1;
    const int y = phase / w.packed_phases, x = phase % w.packed_phases;
    const int taps_y = (w.kernel - y + step - 1) / step, taps_x = (w.kernel - x + step - 1) / step;
    const KElement element(k, taps_y * taps_x, run_of(w.in_channels, step_elements));
    if (element.channel >= w.in_channels) return;
    channel = element.channel;
    r = element.tap / taps_x, s = element.tap % taps_x;
    if (w.transposed) r = y + (taps_y - 1 - r) * step, s = x + (taps_x - 1 - s) * step;
  }
};

struct Packings {
  PackArgs first, second;
  int64_t first_blocks, second_blocks;
  bool tf32;
};

template <typename From, typename To>
LASFAST_KERNEL(threads, 2)
pack_windows(const Packings packings) {
  device::wait_for_earlier();
  device::let_next_begin();
  const bool is_first = device::block_index() < packings.first_blocks;
  const PackArgs& args = is_first ? packings.first : packings.second;
  const int64_t block = device::block_index() - (is_first ? 0 : packings.first_blocks);
  using Row = float[side + 1];
  auto* const tile = device::shared<Row>();  // [rows][elements]
  const Windows& w = args.windows;
  const int across = w.depth > 0 ? (w.depth + side - 1) / side : 1, down = (w.out_channels + side - 1) / side;
  const int first_k = static_cast<int>(block % across) * side;
  const int first_row = static_cast<int>(block / across % down) * side;
  const int phase = static_cast<int>(block / across / down);
  const int64_t of_row = w.transposed ? args.stride[1] : args.stride[0];
  const int64_t of_channel = w.transposed ? args.stride[0] : args.stride[1];
  const bool along_rows = (of_row < 0 ? -of_row : of_row) < (of_channel < 0 ? -of_channel : of_channel);
  for (int i = device::thread_index(); i < side * side; i += threads) {
    const int row = along_rows ? i % side : i / side, k = along_rows ? i / side : i % side;
    const Tap tap(w, phase, first_k + k, conv_step_bytes / sizeof(To));
    float value = 0.f;
    if (tap.r >= 0 && first_row + row < w.out_channels)
      value = device::to_float(
          static_cast<const From*>(args.weight)[(first_row + row) * of_row + tap.channel * of_channel +
                                                tap.r * args.stride[2] + tap.s * args.stride[3]]);
    tile[row][k] = value;
  }
  const int64_t blocks = is_first ? packings.first_blocks : packings.second_blocks;
  for (int64_t i = block * threads + device::thread_index(); i < args.counter_count; i += blocks * threads)
    args.counters[i] = 0;
  device::barrier();
  To* const packed = static_cast<To*>(args.packed) + int64_t{phase} * w.out_channels * w.depth;
  for (int i = device::thread_index(); i < side * side; i += threads) {
    const int row = first_row + i / side, k = first_k + i % side;
    if (row < w.out_channels && k < w.depth)
      packed[int64_t{row} * w.depth + k] = packed_weight<To>(tile[i / side][i % side], packings.tf32);
  }
}

}  // namespace

int64_t counters_at(const Windows& windows, Dtype packed) {
  return round_to(windows.packed_elements() * itemsize(packed), 16);
}

PackArgs::PackArgs(const Conv2dNhwcParams& p, const Windows& windows, const void* weight, void* packed)
    : windows(windows),
      weight(weight),
      stride{},
      packed(packed),
      counters(reinterpret_cast<uint32_t*>(static_cast<char*>(packed) + counters_at(windows, p.storage))),
      counter_count(windows.counters()) {
  for (int i = 0; i < 4; ++i) stride[i] = p.weight_stride[i];
}

int64_t PackArgs::blocks() const {
  const int64_t phases = int64_t{windows.packed_phases} * windows.packed_phases;
  return phases * divide_up(windows.out_channels, side) *
         (windows.depth > 0 ? divide_up(windows.depth, side) : 1);
}

int launch_pack(const PackArgs* args, int count, Dtype weight, Dtype packed, bool tf32,
                device::Stream stream) {
  using device::bfloat16;
  const Packings packings{args[0], args[count - 1], args[0].blocks(), count > 1 ? args[1].blocks() : 0, tf32};
  const int64_t blocks = packings.first_blocks + packings.second_blocks;
  if (blocks == 0) return 0;
  const bool from = weight == Dtype::bfloat16, to = packed == Dtype::bfloat16;
  auto* const kernel = from ? (to ? pack_windows<bfloat16, bfloat16> : pack_windows<bfloat16, float>)
                            : (to ? pack_windows<float, bfloat16> : pack_windows<float, float>);
  return device::launch(kernel, blocks, threads, side * int64_t{sizeof(float[side + 1])}, stream, packings);
}

}  // namespace lasfast
