// Packs slices of weights into the rows that schedule_plan.h describes: many in one launch, whose argument
// has them all. Each thread has one packed element.
#include "../cpu/schedule_check.h"
#include "device.cuh"
#include "entry.cuh"
#include "k_order.cuh"
#include "lasfast/round.h"
#include "lasfast/schedule.h"
#include "schedule_plan.h"

namespace lasfast {
namespace {

struct Slice {
  const float* weight;
  int64_t stride[4];
  void* packed;
  int64_t elements, first_block;
  int32_t width, taps, channels, pitch, depth;
  bool linear;  // its weight is [out, (channel, row, column)]
  bool depthwise;
};

constexpr int most_slices = 40;
struct Slices {
  int32_t count;
  bool tf32;
  Slice slice[most_slices];
};
static_assert(sizeof(Slices) <= 4096, "a kernel's argument is no larger");

LASFAST_DEVICE int64_t place(const Slice& s, int64_t tap, int64_t channel) {
  if (s.linear) return (channel * s.taps + tap) * s.stride[1];
  return channel * s.stride[1] + tap / s.width * s.stride[2] + tap % s.width * s.stride[3];
}

template <typename T>
LASFAST_KERNEL(block_threads, 2)
pack(const Slices slices) {
  const int64_t block = device::block_index();
  int number = 0;
  while (number + 1 < slices.count && slices.slice[number + 1].first_block <= block) ++number;
  const Slice& s = slices.slice[number];
  const int64_t at = (block - s.first_block) * block_threads + device::thread_index();
  if (at >= s.elements) return;
  if (s.depthwise) {
    const int64_t tap = at / s.pitch, channel = at % s.pitch;
    const bool some = channel < s.channels;
    static_cast<float*>(s.packed)[at] = some ? s.weight[channel * s.stride[0] + place(s, tap, 0)] : 0.f;
    return;
  }
  constexpr int step_elements = conv_step_bytes / sizeof(T);
  const KElement k(static_cast<int>(at % s.depth), s.taps, run_of(s.pitch, step_elements));
  const bool some = k.channel < s.channels;
  const float value = some ? s.weight[at / s.depth * s.stride[0] + place(s, k.tap, k.channel)] : 0.f;
  static_cast<T*>(s.packed)[at] = packed_weight<T>(value, slices.tf32);
}

Slice slice_of(const CudaPacking& packing, Dtype storage) {
  const Operation& op = *packing.operation;
  const PackedShape shape(op, *packing.input, storage);
  const int32_t taps = shape.kernel_height * shape.kernel_width;
  const bool depthwise = is_depthwise_cuda(op);
  Slice slice{packing.weight,
              {},
              packing.packed,
              int64_t{depthwise ? taps : op.out_channels} * shape.depth,
              0,
              shape.kernel_width,
              taps,
              shape.channels,
              shape.pitch,
              shape.depth,
              static_cast<Kind>(op.kind) == Kind::linear,
              depthwise};
  for (int i = 0; i < 4; ++i) slice.stride[i] = packing.weight_stride[i];
  return slice;
}

}  // namespace

int64_t schedule_packed_bytes_cuda(const Operation& op, const Value& input, Dtype storage) {
  return check_weighted(op, input).ok() ? PackedShape(op, input, storage).bytes : 0;
}

Status schedule_pack_cuda(const CudaPacking* packings, int64_t count, Dtype storage, bool tf32, int device,
                          void* stream) {
  for (int64_t i = 0; i < count; ++i) {
    const CudaPacking& one = packings[i];
    if (const Status status = check_weighted(*one.operation, *one.input); !status.ok()) return status;
    if (!one.weight || !one.packed) return invalid("the weight or its packed form is missing");
  }
  auto* const kernel = storage == Dtype::bfloat16 ? pack<device::bfloat16> : pack<float>;
  return on_device(device, stream, [&](device::Stream queue) {
    for (int64_t first = 0; first < count; first += most_slices) {
      Slices slices{};
      slices.tf32 = tf32;
      int64_t blocks = 0;
      for (int64_t i = first; i < count && slices.count < most_slices; ++i) {
        Slice& slice = slices.slice[slices.count++] = slice_of(packings[i], storage);
        slice.first_block = blocks;
        blocks += divide_up(slice.elements, block_threads);
      }
      if (blocks > device::max_blocks) return -1;
      if (const int error = device::launch(kernel, blocks, block_threads, 0, queue, slices)) return error;
    }
    return 0;
  });
}

}  // namespace lasfast
