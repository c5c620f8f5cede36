// Schedules for Python: tables arrive as addresses of arrays that mirror the structs of schedule.h.
#include "lasfast/schedule.h"

#include <pybind11/stl.h>

#include <array>

#include "bindings.h"

namespace py = pybind11;
using namespace lasfast;

namespace {

ScheduleTables make_tables(Address values, int64_t value_count, Address norms, int64_t norm_count,
                           Address operations, int64_t operation_count, Address weights, int64_t weight_bytes,
                           Address biases, int64_t bias_count, Address gamma, Address beta, Address scale,
                           Address shift, Address mean, Address variance, int64_t channel_count,
                           Address pixels) {
  return {at<const Value>(values),
          value_count,
          at<const Norm>(norms),
          norm_count,
          at<const Operation>(operations),
          operation_count,
          at<const void>(weights),
          weight_bytes,
          at<const float>(biases),
          bias_count,
          at<const float>(gamma),
          at<const float>(beta),
          at<float>(scale),
          at<float>(shift),
          at<float>(mean),
          at<float>(variance),
          channel_count,
          at<const float>(pixels)};
}

int64_t packed_bytes(Address operation, Address input, int storage, int isa) {
  return schedule_packed_bytes_cpu(*at<const Operation>(operation), *at<const Value>(input),
                                   static_cast<Dtype>(storage), static_cast<Isa>(isa));
}

void pack(Address operation, Address input, int storage, int isa, Address weight,
          const std::array<int64_t, 4>& stride, Address packed) {
  run_and_raise("schedule_pack", [&] {
    return schedule_pack_cpu(*at<const Operation>(operation), *at<const Value>(input),
                             static_cast<Dtype>(storage), static_cast<Isa>(isa), at<const float>(weight),
                             stride.data(), at<void>(packed));
  });
}

int64_t scratch_bytes(const ScheduleTables& tables, int storage, int isa, int64_t images, int threads,
                      bool calibration) {
  return schedule_scratch_bytes_cpu(tables, static_cast<Dtype>(storage), static_cast<Isa>(isa), images,
                                    threads, calibration);
}

using Pair = std::array<int64_t, 2>;  // first and last of a Range

void calibrate(const ScheduleTables& tables, int storage, int isa, int threads, const Pair& operations,
               Address images_nchw, int64_t images, Address arena, int64_t arena_bytes, Address scratch) {
  run_and_raise("schedule_calibrate", [&] {
    return schedule_calibrate_cpu(tables, static_cast<Dtype>(storage), static_cast<Isa>(isa), threads,
                                  {operations[0], operations[1]}, at<const void>(images_nchw), images,
                                  at<void>(arena), arena_bytes, at<void>(scratch));
  });
}

void predict(const ScheduleTables& tables, int storage, int isa, int threads, const Pair& operations,
             Address images_nchw, int64_t images, int64_t block, Address shared_arena, int64_t shared_bytes,
             Address arenas, int64_t arena_bytes, Address scratch, Address logits) {
  run_and_raise("schedule_predict", [&] {
    return schedule_predict_cpu(tables, static_cast<Dtype>(storage), static_cast<Isa>(isa), threads,
                                {operations[0], operations[1]}, at<const void>(images_nchw), images, block,
                                at<void>(shared_arena), shared_bytes, at<void>(arenas), arena_bytes,
                                at<void>(scratch), at<float>(logits));
  });
}

}  // namespace

void bind_schedule(py::module_& m) {
  using py::arg;
  // What Python compares with its own records.
  m.attr("schedule_sizes") = py::make_tuple(sizeof(Value), sizeof(Norm), sizeof(Operation));
  py::class_<ScheduleTables>(m, "ScheduleTables", py::module_local())
      .def(py::init(&make_tables), arg("values"), arg("value_count"), arg("norms"), arg("norm_count"),
           arg("operations"), arg("operation_count"), arg("weights"), arg("weight_bytes"), arg("biases"),
           arg("bias_count"), arg("gamma"), arg("beta"), arg("scale"), arg("shift"), arg("mean"),
           arg("variance"), arg("channel_count"), arg("pixels") = 0);
  m.def("schedule_packed_bytes", &packed_bytes, arg("operation"), arg("input"), arg("storage"), arg("isa"));
  m.def("schedule_pack", &pack, arg("operation"), arg("input"), arg("storage"), arg("isa"), arg("weight"),
        arg("weight_stride"), arg("packed"));
  m.def("schedule_scratch_bytes", &scratch_bytes, arg("tables"), arg("storage"), arg("isa"), arg("images"),
        arg("threads"), arg("calibration"));
  m.def("schedule_calibrate", &calibrate, arg("tables"), arg("storage"), arg("isa"), arg("threads"),
        arg("operations"), arg("images_nchw"), arg("images"), arg("arena"), arg("arena_bytes"),
        arg("scratch"));
  m.def("schedule_predict", &predict, arg("tables"), arg("storage"), arg("isa"), arg("threads"),
        arg("operations"), arg("images_nchw"), arg("images"), arg("block"), arg("shared_arena"),
        arg("shared_bytes"), arg("arenas"), arg("arena_bytes"), arg("scratch"), arg("logits"));
}
