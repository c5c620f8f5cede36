// Packs a slice of a weight into the rows that schedule_plan.h describes. Each thread has one packed element.
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
  int64_t elements;
  int32_t width, taps, channels, pitch, depth;
  bool linear;  // its weight is [out, (channel, row, column)]
};

LASFAST_DEVICE int64_t place(const Slice& s, int64_t tap, int64_t channel) {
  if (s.linear) return (channel * s.taps + tap) * s.stride[1];
  return channel * s.stride[1] + tap / s.width * s.stride[2] + tap % s.width * s.stride[3];
}

template <typename T>
LASFAST_KERNEL(block_threads, 2)
pack_rows(const Slice s) {
  const int64_t at = device::block_index() * block_threads + device::thread_index();
  if (at >= s.elements) return;
  constexpr int step_elements = conv_step_bytes / sizeof(T);
  const KElement k(static_cast<int>(at % s.depth), s.taps, run_of(s.pitch, step_elements));
  const bool some = k.channel < s.channels;
  const float value = some ? s.weight[at / s.depth * s.stride[0] + place(s, k.tap, k.channel)] : 0.f;
  static_cast<T*>(s.packed)[at] = device::from_float<T>(value);
}

LASFAST_KERNEL(block_threads, 2)
pack_depthwise(const Slice s) {
  const int64_t at = device::block_index() * block_threads + device::thread_index();
  if (at >= s.elements) return;
  const int64_t tap = at / s.pitch, channel = at % s.pitch;
  const bool some = channel < s.channels;
  static_cast<float*>(s.packed)[at] = some ? s.weight[channel * s.stride[0] + place(s, tap, 0)] : 0.f;
}

}  // namespace

int64_t schedule_packed_bytes_cuda(const Operation& op, const Value& input, Dtype storage) {
  return check_weighted(op, input).ok() ? PackedShape(op, input, storage).bytes : 0;
}

Status schedule_pack_cuda(const Operation& op, const Value& input, Dtype storage, const float* weight,
                          const int64_t weight_stride[4], int device, void* stream, void* packed) {
  if (const Status status = check_weighted(op, input); !status.ok()) return status;
  if (!weight || !packed) return invalid("the weight or its packed form is missing");
  const PackedShape shape(op, input, storage);
  const int32_t taps = shape.kernel_height * shape.kernel_width;
  Slice slice{weight,
              {},
              packed,
              0,
              shape.kernel_width,
              taps,
              shape.channels,
              shape.pitch,
              shape.depth,
              static_cast<Kind>(op.kind) == Kind::linear};
  for (int i = 0; i < 4; ++i) slice.stride[i] = weight_stride[i];
  const bool depthwise = is_depthwise_cuda(op);
  slice.elements = int64_t{depthwise ? taps : op.out_channels} * shape.depth;
  auto* const kernel = depthwise                    ? pack_depthwise
                       : storage == Dtype::bfloat16 ? pack_rows<device::bfloat16>
                                                    : pack_rows<float>;
  return on_device(device, stream, [&](device::Stream queue) {
    return device::launch(kernel, divide_up(slice.elements, block_threads), block_threads, 0, queue, slice);
  });
}

}  // namespace lasfast
