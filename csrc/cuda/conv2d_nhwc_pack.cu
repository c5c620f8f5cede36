// Packing of a weight's slice into the rows that the products read. A thread per packed element.
#include "conv2d_nhwc.cuh"

namespace lasfast {
namespace {

constexpr int threads = 256;

template <typename From, typename To>
LASFAST_KERNEL(threads, 2)
pack_windows(const PackArgs args) {
  const Windows& w = args.windows;
  const int64_t at = device::block_index() * threads + device::thread_index();
  if (at >= args.elements) return;
  const int k = static_cast<int>(at % w.depth);
  const int64_t row = at / w.depth;
  const int column = static_cast<int>(row % w.out_channels), phase = static_cast<int>(row / w.out_channels);
  // How many taps a residue has, in each axis.
  const int step = w.transposed ? w.stride : 1;
  const int y = phase / w.packed_phases, x = phase % w.packed_phases;
  const int taps_y = (w.kernel - y + step - 1) / step, taps_x = (w.kernel - x + step - 1) / step;
  const int tap = k / w.in_channels, channel = k % w.in_channels;
  float value = 0.f;
  if (tap < taps_y * taps_x) {
    int r = tap / taps_x, s = tap % taps_x;
    if (w.transposed) r = y + (taps_y - 1 - r) * step, s = x + (taps_x - 1 - s) * step;
    const int64_t out = w.transposed ? channel : column, in = w.transposed ? column : channel;
    value = device::to_float(static_cast<const From*>(
        args.weight)[out * args.stride[0] + in * args.stride[1] + r * args.stride[2] + s * args.stride[3]]);
  }
  static_cast<To*>(args.packed)[at] = device::from_float<To>(value);
}

}  // namespace

int launch_pack(const PackArgs& args, Storage weight, Storage packed, device::Stream stream) {
  using device::bfloat16;
  const int64_t blocks = divide_up(args.elements, threads);
  if (blocks == 0) return 0;
  const bool from = weight == Storage::bfloat16, to = packed == Storage::bfloat16;
  auto* const kernel = from ? (to ? pack_windows<bfloat16, bfloat16> : pack_windows<bfloat16, float>)
                            : (to ? pack_windows<float, bfloat16> : pack_windows<float, float>);
  return device::launch(kernel, blocks, threads, 0, stream, args);
}

}  // namespace lasfast
