// Schedules on CUDA for Python. As in schedule.cpp, addresses stand for what Python owns.
#include <pybind11/stl.h>

#include <array>
#include <tuple>
#include <vector>

#include "bindings.h"
#include "lasfast/device.h"
#include "lasfast/schedule.h"

namespace py = pybind11;
using namespace lasfast;

#ifdef LASFAST_CUDA

namespace {

int64_t packed_bytes(Address operation, Address input, int storage) {
  return schedule_packed_bytes_cuda(*at<const Operation>(operation), *at<const Value>(input),
                                    static_cast<Dtype>(storage));
}

void pack(Address operation, Address input, int storage, Address weight, const std::array<int64_t, 4>& stride,
          int device, Address stream, Address packed) {
  raise(schedule_pack_cuda(*at<const Operation>(operation), *at<const Value>(input),
                           static_cast<Dtype>(storage), at<const float>(weight), stride.data(), device,
                           at<void>(stream), at<void>(packed)),
        "schedule_pack");
}

int64_t plan_bytes(const ScheduleTables& tables, int storage, int64_t images, int purpose) {
  return schedule_plan_bytes_cuda(tables, static_cast<Dtype>(storage), images, static_cast<Purpose>(purpose));
}

void plan(const ScheduleTables& tables, int storage, bool tf32, int64_t images, int purpose, Address plan) {
  raise(schedule_plan_cuda(tables, static_cast<Dtype>(storage), tf32, images, static_cast<Purpose>(purpose),
                           at<void>(plan)),
        "schedule_plan");
}

std::vector<std::tuple<int, int, bool>> conv_tiles() {
  std::vector<std::tuple<int, int, bool>> tiles;
  for (const CudaConvTile& tile : cuda_conv_tiles)
    tiles.emplace_back(tile.rows, tile.columns, tile.warpgroups);
  return tiles;
}

std::array<int64_t, 4> needs(Address plan) {
  const CudaNeeds needs = schedule_needs_cuda(at<const void>(plan));
  return {needs.arena_bytes, needs.scratch_bytes, needs.levels, needs.resident_bytes};
}

void run(const ScheduleTables& tables, Address plan, Address device_plan, Address images, int64_t count,
         int64_t first_level, int64_t last_level, Address arena, Address scratch, Address logits,
         int64_t logit_images, int device, Address stream) {
  const CudaPass pass{at<const void>(plan),
                      at<const void>(device_plan),
                      at<const void>(images),
                      count,
                      first_level,
                      last_level,
                      at<void>(arena),
                      at<void>(scratch),
                      at<float>(logits),
                      logit_images,
                      device,
                      at<void>(stream)};
  run_and_raise("schedule_run", [&] { return schedule_run_cuda(tables, pass); });
}

void run_resident(const ScheduleTables& tables, Address plan, Address device_plan, Address images,
                  int64_t count, Address logits, int64_t logit_images, int device, Address stream) {
  CudaPass pass{};
  pass.plan = at<const void>(plan);
  pass.device_plan = at<const void>(device_plan);
  pass.images = at<const void>(images);
  pass.count = count;
  pass.logits = at<float>(logits);
  pass.logit_images = logit_images;
  pass.device = device;
  pass.stream = at<void>(stream);
  run_and_raise("schedule_run_resident", [&] { return schedule_run_resident_cuda(tables, pass); });
}

std::array<int64_t, 4> limits(int device) {
  CudaLimits limits{};
  if (const int error = cuda_limits(device, &limits); error != 0)
    raise({Code::device_error, error, "the device cannot be used"}, "cuda_limits");
  return {limits.multiprocessors, limits.block_shared_bytes, limits.shared_bytes, limits.reserved_bytes};
}

}  // namespace

void bind_schedule_cuda(py::module_& m) {
  using py::arg;
  m.def("schedule_packed_bytes_cuda", &packed_bytes, arg("operation"), arg("input"), arg("storage"));
  m.def("schedule_pack_cuda", &pack, arg("operation"), arg("input"), arg("storage"), arg("weight"),
        arg("weight_stride"), arg("device"), arg("stream"), arg("packed"));
  m.def("schedule_plan_bytes_cuda", &plan_bytes, arg("tables"), arg("storage"), arg("images"),
        arg("purpose"));
  m.def("schedule_plan_cuda", &plan, arg("tables"), arg("storage"), arg("tf32"), arg("images"),
        arg("purpose"), arg("plan"));
  m.def("schedule_conv_tiles_cuda", &conv_tiles);
  m.def("schedule_usual_tile_cuda", &schedule_usual_tile_cuda, arg("channels"));
  m.def("schedule_has_warpgroups_cuda", &schedule_has_warpgroups_cuda, arg("device"));
  m.def("schedule_needs_cuda", &needs, arg("plan"));
  m.def("schedule_run_cuda", &run, arg("tables"), arg("plan"), arg("device_plan"), arg("images"),
        arg("count"), arg("first_level"), arg("last_level"), arg("arena"), arg("scratch"), arg("logits"),
        arg("logit_images"), arg("device"), arg("stream"));
  m.def("schedule_run_resident_cuda", &run_resident, arg("tables"), arg("plan"), arg("device_plan"),
        arg("images"), arg("count"), arg("logits"), arg("logit_images"), arg("device"), arg("stream"));
  m.def("cuda_limits", &limits, arg("device"));
}

#endif
