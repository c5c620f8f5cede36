// What the files of the Python module share.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <utility>

#include "lasfast/status.h"

using Address = uintptr_t;  // of data that Python owns

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

// Raises the Python exception that a status stands for.
void raise(const lasfast::Status& status, const char* where);

// Runs a pass, which returns a status, while other threads of Python go on.
template <class Run>
void run_and_raise(const char* where, const Run& run) {
  lasfast::Status status;
  {
    const pybind11::gil_scoped_release release;
    status = run();
  }
  raise(status, where);
}

// The numbers of an enum's members by their names, for Python to compare with its own or to use.
template <class Enum>
pybind11::dict numbers(std::initializer_list<std::pair<const char*, Enum>> members) {
  pybind11::dict by_name;
  for (const auto& [name, member] : members) by_name[name] = static_cast<int>(member);
  return by_name;
}

void bind_bn_act(pybind11::module_& m);
void bind_conv2d_nhwc(pybind11::module_& m);
void bind_depthwise_nhwc(pybind11::module_& m);
void bind_schedule(pybind11::module_& m);
void bind_sgd(pybind11::module_& m);
void bind_schedule_cuda(pybind11::module_& m);  // in CUDA builds only
