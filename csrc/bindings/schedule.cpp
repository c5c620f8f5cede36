// Schedules for Python: tables arrive as addresses of numpy's arrays of the structs of schedule.h, whose
// dtypes are given here.
#include "lasfast/schedule.h"

#include <pybind11/numpy.h>

#include <array>
#include <cstddef>
#include <stdexcept>

#include "bindings.h"

namespace lasfast {
namespace {

namespace py = pybind11;
using py::arg;

// A member of a struct as a field of its dtype; an enum is its number.
struct Field {
  const char* name;
  py::dtype type;
  size_t offset, size;
};

template <class T>
py::dtype dtype_of() {
  if constexpr (std::is_enum_v<T>)
    return py::dtype::of<std::underlying_type_t<T>>();
  else
    return py::dtype::of<T>();
}

#define FIELD(record, member) \
  Field { #member, dtype_of<decltype(record::member)>(), offsetof(record, member), sizeof(record::member) }

// The dtype of a struct without holes. (PYBIND11_NUMPY_DTYPE registers a struct once for all modules of a
// process; here are two, with lasfast._emulated.)
template <class Record>
py::dtype record_dtype(std::initializer_list<Field> fields) {
  py::list names, formats, offsets;
  size_t size = 0;
  for (const Field& field : fields) {
    names.append(field.name);
    formats.append(field.type);
    offsets.append(field.offset);
    size += field.size;
  }
  if (size != sizeof(Record)) throw std::logic_error("a record's dtype lacks some of its fields");
  return {names, formats, offsets, static_cast<py::ssize_t>(size)};
}

py::dict record_dtypes() {
  py::dict records;
  records["Value"] = record_dtype<Value>({FIELD(Value, channels), FIELD(Value, height), FIELD(Value, width),
                                          FIELD(Value, shared), FIELD(Value, offset)});
  records["Norm"] = record_dtype<Norm>(
      {FIELD(Norm, channels), FIELD(Norm, offset), FIELD(Norm, eps), FIELD(Norm, reserved)});
  records["Operation"] =
      record_dtype<Operation>({FIELD(Operation, kind),        FIELD(Operation, level),
                               FIELD(Operation, input),       FIELD(Operation, other),
                               FIELD(Operation, output),      FIELD(Operation, leaf),
                               FIELD(Operation, kernel),      FIELD(Operation, stride),
                               FIELD(Operation, padding),     FIELD(Operation, groups),
                               FIELD(Operation, input_norm),  FIELD(Operation, input_activation),
                               FIELD(Operation, other_norm),  FIELD(Operation, other_activation),
                               FIELD(Operation, output_norm), FIELD(Operation, activation),
                               FIELD(Operation, statistics),  FIELD(Operation, out_channels),
                               FIELD(Operation, first),       FIELD(Operation, tile),
                               FIELD(Operation, weight),      FIELD(Operation, bias)});
  return records;
}

#undef FIELD

ScheduleTables make_tables(Pointer<const Value> values, int64_t value_count, Pointer<const Norm> norms,
                           int64_t norm_count, Pointer<const Operation> operations, int64_t operation_count,
                           Pointer<const void> weights, int64_t weight_bytes, Pointer<const float> biases,
                           int64_t bias_count, Pointer<const float> gamma, Pointer<const float> beta,
                           Pointer<float> scale, Pointer<float> shift, Pointer<float> mean,
                           Pointer<float> variance, int64_t channel_count, Pointer<const float> pixels) {
  return {values,  value_count,  norms,  norm_count, operations,    operation_count,
          weights, weight_bytes, biases, bias_count, gamma,         beta,
          scale,   shift,        mean,   variance,   channel_count, pixels};
}

int64_t packed_bytes(Pointer<const Operation> operation, Pointer<const Value> input, Dtype storage, Isa isa) {
  return schedule_packed_bytes_cpu(*operation, *input, storage, isa);
}

void pack(Pointer<const Operation> operation, Pointer<const Value> input, Dtype storage, Isa isa,
          Pointer<const float> weight, const std::array<int64_t, 4>& stride, Pointer<void> packed) {
  run_and_raise("schedule_pack", [&] {
    return schedule_pack_cpu(*operation, *input, storage, isa, weight, stride.data(), packed);
  });
}

using Pair = std::array<int64_t, 2>;  // first and last of a Range

void calibrate(const ScheduleTables& tables, Dtype storage, Isa isa, int threads, const Pair& operations,
               Pointer<const void> images_nchw, int64_t images, Pointer<void> arena, int64_t arena_bytes,
               Pointer<void> scratch) {
  run_and_raise("schedule_calibrate", [&] {
    return schedule_calibrate_cpu(tables, storage, isa, threads, {operations[0], operations[1]}, images_nchw,
                                  images, arena, arena_bytes, scratch);
  });
}

void predict(const ScheduleTables& tables, Dtype storage, Isa isa, int threads, const Pair& operations,
             Pointer<const void> images_nchw, int64_t images, int64_t block, Pointer<void> shared_arena,
             int64_t shared_bytes, Pointer<void> arenas, int64_t arena_bytes, Pointer<void> scratch,
             Pointer<float> logits) {
  run_and_raise("schedule_predict", [&] {
    return schedule_predict_cpu(tables, storage, isa, threads, {operations[0], operations[1]}, images_nchw,
                                images, block, shared_arena, shared_bytes, arenas, arena_bytes, scratch,
                                logits);
  });
}

}  // namespace

void bind_schedule(py::module_& m) {
  m.attr("records") = record_dtypes();
  m.attr("kinds") = numbers<Kind>({{"input", Kind::input},
                                   {"conv2d", Kind::conv2d},
                                   {"max_pool", Kind::max_pool},
                                   {"avg_pool", Kind::avg_pool},
                                   {"global_pool", Kind::global_pool},
                                   {"combine", Kind::combine},
                                   {"linear", Kind::linear},
                                   {"gate", Kind::gate},
                                   {"arrange", Kind::arrange},
                                   {"opaque", Kind::opaque}});
  m.attr("schedule_limits") =
      py::dict(py::arg("max_kernel") = schedule_max_kernel, py::arg("cuda_channels") = cuda_channels(1),
               py::arg("resident_alignment") = resident_alignment);
  py::class_<ScheduleTables>(m, "ScheduleTables", py::module_local(),
                             "What a pass reads and writes; Python keeps all of it alive.")
      .def(py::init(&make_tables), arg("values"), arg("value_count"), arg("norms") = 0, arg("norm_count") = 0,
           arg("operations") = 0, arg("operation_count") = 0, arg("weights") = 0, arg("weight_bytes") = 0,
           arg("biases") = 0, arg("bias_count") = 0, arg("gamma") = 0, arg("beta") = 0, arg("scale") = 0,
           arg("shift") = 0, arg("mean") = 0, arg("variance") = 0, arg("channel_count") = 0,
           arg("pixels") = 0);
  m.def("schedule_packed_bytes", &packed_bytes, arg("operation"), arg("input"), arg("storage"), arg("isa"));
  m.def("schedule_pack", &pack, arg("operation"), arg("input"), arg("storage"), arg("isa"), arg("weight"),
        arg("weight_stride"), arg("packed"));
  m.def("schedule_scratch_bytes", &schedule_scratch_bytes_cpu, arg("tables"), arg("storage"), arg("isa"),
        arg("images"), arg("threads"), arg("calibration"));
  m.def("schedule_calibrate", &calibrate, arg("tables"), arg("storage"), arg("isa"), arg("threads"),
        arg("operations"), arg("images_nchw"), arg("images"), arg("arena"), arg("arena_bytes"),
        arg("scratch"));
  m.def("schedule_predict", &predict, arg("tables"), arg("storage"), arg("isa"), arg("threads"),
        arg("operations"), arg("images_nchw"), arg("images"), arg("block"), arg("shared_arena"),
        arg("shared_bytes"), arg("arenas"), arg("arena_bytes"), arg("scratch"), arg("logits"));
}

}  // namespace lasfast
