// What the files of the Python module share.
#pragma once

#include <pybind11/pybind11.h>

#include "lasfast/status.h"

using Address = uintptr_t;  // of data that Python owns

// Raises the Python exception that a status stands for.
void raise(const lasfast::Status& status, const char* where);

void bind_bn_act(pybind11::module_& m);
void bind_conv2d_nhwc(pybind11::module_& m);
void bind_depthwise_nhwc(pybind11::module_& m);
void bind_schedule(pybind11::module_& m);
void bind_sgd(pybind11::module_& m);
void bind_schedule_cuda(pybind11::module_& m);  // in CUDA builds only
