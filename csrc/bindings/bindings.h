// What the files of the Python module share: how native functions and their parameters become Python's.
//
// Tensors arrive as the addresses of their data, 0 where there is none, and enums as their numbers.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include "lasfast/activation.h"
#include "lasfast/dtype.h"
#include "lasfast/isa.h"
#include "lasfast/prediction.h"
#include "lasfast/schedule.h"
#include "lasfast/status.h"

namespace lasfast {

// The address of data that Python owns.
template <class T>
struct Pointer {
  T* address;
  operator T*() const { return address; }
};

}  // namespace lasfast

namespace pybind11::detail {

template <class T>
struct type_caster<lasfast::Pointer<T>> {
  PYBIND11_TYPE_CASTER(lasfast::Pointer<T>, const_name("int"));
  bool load(handle source, bool convert) {
    make_caster<uintptr_t> number;
    if (!number.load(source, convert)) return false;
    value.address = reinterpret_cast<T*>(cast_op<uintptr_t>(number));
    return true;
  }
};

template <class Enum>
struct number_caster {
  PYBIND11_TYPE_CASTER(Enum, const_name("int"));
  bool load(handle source, bool convert) {
    make_caster<int> number;
    if (!number.load(source, convert)) return false;
    value = static_cast<Enum>(cast_op<int>(number));
    return true;
  }
};
template <>
struct type_caster<lasfast::Activation> : number_caster<lasfast::Activation> {};
template <>
struct type_caster<lasfast::Dtype> : number_caster<lasfast::Dtype> {};
template <>
struct type_caster<lasfast::Isa> : number_caster<lasfast::Isa> {};
template <>
struct type_caster<lasfast::Purpose> : number_caster<lasfast::Purpose> {};

}  // namespace pybind11::detail

namespace lasfast {

// Raises the Python exception that a status stands for.
void raise(const Status& status, const char* where);

// A parameter of a native function as Python gives it.
template <class T>
using Received = std::conditional_t<std::is_pointer_v<T>, Pointer<std::remove_pointer_t<T>>, T>;

// Runs a pass, which returns a status, while other threads of Python go on.
template <class Run>
void run_and_raise(const char* where, const Run& run) {
  Status status;
  {
    const pybind11::gil_scoped_release release;
    status = run();
  }
  raise(status, where);
}

// A native function for Python: `where` is what errors begin with.
template <class... P>
auto native(const char* where, Status (*run)(P...)) {
  return [=](Received<P>... values) { run_and_raise(where, [&] { return run(values...); }); };
}

// The same for one that takes no longer than it takes to let other threads of Python go on.
template <class... P>
auto native_at_once(const char* where, Status (*run)(P...)) {
  return [=](Received<P>... values) { raise(run(values...), where); };
}

// Why a pass is not supported; None where it is.
template <class... P>
auto why_not(const char* where, Status (*supported)(P...)) {
  return [=](Received<P>... values) -> std::optional<std::string> {
    const Status status = supported(values...);
    if (status.code == Code::unsupported) return status.what;
    raise(status, where);
    return {};
  };
}

// A pass that predicts: `where` is what errors begin with.
template <class Params>
auto prediction(const char* where, Status (*run)(const Params&, const void*, const void*, const Prediction&,
                                                 void*, int, Isa, void*)) {
  return [=](const Params& params, Pointer<const void> input, Pointer<const void> weight,
             Pointer<const float> mean, Pointer<const float> var, Pointer<const float> bn_weight,
             Pointer<const float> bn_bias, float eps, Pointer<const void> residual, int64_t residual_channels,
             Activation activation, Pointer<void> workspace, int threads, Isa isa, Pointer<void> output) {
    const Prediction then{mean, var, bn_weight, bn_bias, eps, residual, residual_channels, activation};
    run_and_raise(where, [&] { return run(params, input, weight, then, workspace, threads, isa, output); });
  };
}

// Where a pass runs: the end of its name, and the two parameters between its workspace and its outputs.
struct Place {
  const char *suffix, *first, *second;

  std::string named(const char* pass) const { return std::string(pass) + suffix; }
};
constexpr Place cpu = {"_cpu", "threads", "isa"};
constexpr Place cuda = {"_cuda", "device", "stream"};

// Defines the function of a prediction on the CPU.
template <class Function>
void bind_prediction(pybind11::module_& m, const char* pass, Function function) {
  using pybind11::arg;
  m.def(cpu.named(pass).c_str(), function, arg("params"), arg("input"), arg("weight"), arg("mean"),
        arg("var"), arg("bn_weight"), arg("bn_bias"), arg("eps"), arg("residual"), arg("residual_channels"),
        arg("activation"), arg("workspace"), arg("threads"), arg("isa"), arg("output"));
}

// The numbers of an enum's members by their names, for Python to compare with its own.
template <class Enum>
pybind11::dict numbers(std::initializer_list<std::pair<const char*, Enum>> members) {
  pybind11::dict by_name;
  for (const auto& [name, member] : members) by_name[name] = static_cast<int>(member);
  return by_name;
}

void bind_bn_act(pybind11::module_& m);
void bind_conv2d_nhwc(pybind11::module_& m);
void bind_depthwise_nhwc(pybind11::module_& m);
void bind_grouped_nhwc(pybind11::module_& m);
void bind_schedule(pybind11::module_& m);
void bind_sgd(pybind11::module_& m);
void bind_sliced_conv2d(pybind11::module_& m);
void bind_schedule_cuda(pybind11::module_& m);  // in CUDA builds only

}  // namespace lasfast
