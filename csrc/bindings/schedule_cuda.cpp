// Schedules on CUDA, for Python.
#include <array>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "lasfast/device.h"
#include "lasfast/schedule.h"

#ifdef LASFAST_CUDA

namespace lasfast {
namespace {

namespace py = pybind11;
using py::arg;

int64_t packed_bytes(Pointer<const Operation> operation, Pointer<const Value> input, Dtype storage) {
  return schedule_packed_bytes_cuda(*operation, *input, storage);
}

using Packing = std::tuple<Pointer<const Operation>, Pointer<const Value>, Pointer<const float>,
                           std::array<int64_t, 4>, Pointer<void>>;

void pack(const std::vector<Packing>& weights, Dtype storage, bool tf32, int device, Pointer<void> stream) {
  std::vector<CudaPacking> packings;
  for (const auto& [operation, input, weight, stride, packed] : weights)
    packings.push_back({operation, input, weight, {stride[0], stride[1], stride[2], stride[3]}, packed});
  const auto count = static_cast<int64_t>(packings.size());
  raise(schedule_pack_cuda(packings.data(), count, storage, tf32, device, stream), "schedule_pack");
}

std::vector<std::tuple<int, int, bool>> conv_tiles() {
  std::vector<std::tuple<int, int, bool>> tiles;
  for (const CudaConvTile& tile : cuda_conv_tiles)
    tiles.emplace_back(tile.rows, tile.columns, tile.warpgroups);
  return tiles;
}

std::array<int64_t, 5> needs(Pointer<const void> plan) {
  const CudaNeeds needs = schedule_needs_cuda(plan);
  return {needs.arena_bytes, needs.scratch_bytes, needs.levels, needs.resident_bytes, needs.map_bytes};
}

void maps(const ScheduleTables& tables, Pointer<const void> plan, Pointer<const void> arena, int device,
          Pointer<void> maps) {
  raise(schedule_maps_cuda(tables, plan, arena, device, maps), "schedule_maps");
}

void run(const ScheduleTables& tables, Pointer<const void> plan, Pointer<void> device_plan,
         Pointer<const void> images, int64_t count, int64_t first_level, int64_t last_level,
         Pointer<void> arena, Pointer<void> scratch, Pointer<float> logits, int64_t logit_images, int device,
         Pointer<void> stream, Pointer<const void> maps) {
  const CudaPass pass{plan,    device_plan, images,       count,  first_level, last_level, arena,
                      scratch, logits,      logit_images, device, stream,      maps};
  run_and_raise("schedule_run", [&] { return schedule_run_cuda(tables, pass); });
}

void run_resident(const ScheduleTables& tables, Pointer<const void> plan, Pointer<void> device_plan,
                  Pointer<const void> images, int64_t count, Pointer<float> logits, int64_t logit_images,
                  int device, Pointer<void> stream) {
  const CudaPass pass{plan,    device_plan, images,       count,  0,      0,      nullptr,
                      nullptr, logits,      logit_images, device, stream, nullptr};
  run_and_raise("schedule_run_resident", [&] { return schedule_run_resident_cuda(tables, pass); });
}

void tally(int64_t networks, int64_t images, int64_t classes, Pointer<const float> logits,
           Pointer<const int64_t> labels, int64_t capacity, Pointer<int32_t> class_ranks,
           Pointer<double> losses, bool early, int device, Pointer<void> stream) {
  const CudaTally args{networks, images, classes, logits, labels, capacity, class_ranks, losses};
  run_and_raise("schedule_tally", [&] { return schedule_tally_cuda(args, early, device, stream); });
}

std::array<int64_t, 4> limits(int device) {
  CudaLimits limits{};
  if (const int error = cuda_limits(device, &limits); error != 0)
    raise({Code::device_error, error, "the device cannot be used"}, "cuda_limits");
  return {limits.multiprocessors, limits.block_shared_bytes, limits.shared_bytes, limits.reserved_bytes};
}

}  // namespace

void bind_schedule_cuda(py::module_& m) {
  m.def("schedule_packed_bytes_cuda", &packed_bytes, arg("operation"), arg("input"), arg("storage"));
  m.def("schedule_pack_cuda", &pack, arg("weights"), arg("storage"), arg("tf32"), arg("device"),
        arg("stream"),
        "Each weight: the addresses of an operation and its input, of the weight, its strides, where to.");
  m.def("schedule_plan_bytes_cuda", &schedule_plan_bytes_cuda, arg("tables"), arg("storage"), arg("images"),
        arg("purpose"));
  m.def("schedule_plan_cuda", native_at_once("schedule_plan", &schedule_plan_cuda), arg("tables"),
        arg("storage"), arg("tf32"), arg("images"), arg("purpose"), arg("plan"));
  m.def("schedule_conv_tiles_cuda", &conv_tiles,
        "Of each tile: positions, channels, and whether warpgroups multiply it.");
  m.def("schedule_usual_tile_cuda", &schedule_usual_tile_cuda, arg("channels"));
  m.def("schedule_has_warpgroups_cuda", &schedule_has_warpgroups_cuda, arg("device"));
  m.def("schedule_has_tensor_maps_cuda", &schedule_has_tensor_maps_cuda, arg("device"));
  m.def("schedule_needs_cuda", &needs, arg("plan"),
        "Bytes of arena and scratch memory, levels, bytes of a block's shared memory and of tensor maps.");
  m.def("schedule_maps_cuda", &maps, arg("tables"), arg("plan"), arg("arena"), arg("device"), arg("maps"));
  m.def("schedule_run_cuda", &run, arg("tables"), arg("plan"), arg("device_plan"), arg("images"),
        arg("count"), arg("first_level"), arg("last_level"), arg("arena"), arg("scratch"), arg("logits"),
        arg("logit_images"), arg("device"), arg("stream"), arg("maps") = 0);
  m.def("schedule_run_resident_cuda", &run_resident, arg("tables"), arg("plan"), arg("device_plan"),
        arg("images"), arg("count"), arg("logits"), arg("logit_images"), arg("device"), arg("stream"));
  m.def("schedule_tally_cuda", &tally, arg("networks"), arg("images"), arg("classes"), arg("logits"),
        arg("labels"), arg("capacity"), arg("class_ranks"), arg("losses"), arg("early"), arg("device"),
        arg("stream"));
  m.def("cuda_limits", &limits, arg("device"),
        "Multiprocessors; bytes of shared memory: a block's, a multiprocessor's, reserved in each block.");
}

}  // namespace lasfast

#endif
