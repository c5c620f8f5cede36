// lasfast._C: the native code for Python. The only place that knows pybind11; tensors arrive as addresses and
// sizes. The Python side (lasfast/ops/*_kernels.py) has checked devices, types and shapes, and keeps the tensors
// alive.
//
// Built once more as lasfast._emulated, in which the CUDA kernels run on the host (csrc/cuda/device_host.h),
// for the test-suite.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <sstream>
#include <string>
#include <vector>

#include "bindings.h"
#include "lasfast/activation.h"
#include "lasfast/dtype.h"
#include "lasfast/isa.h"
#include "lasfast/sliced_conv2d.h"
#ifdef LASFAST_CUDA
#include "lasfast/device.h"
#endif
#ifdef LASFAST_EMULATE
#include "../cuda/device_host.h"
#endif

namespace py = pybind11;
using namespace lasfast;  // this file is one translation unit at the border, with nothing else in scope

void raise(const Status& status, const char* where) {
  if (status.ok()) return;
  std::string text = std::string(where) + ": " + status.what;
  if (status.code == Code::invalid_argument) throw py::value_error(text);
#ifdef LASFAST_CUDA
  if (status.code == Code::device_error) text += std::string(": ") + cuda_error_text(status.detail);
#endif
  throw std::runtime_error(text);
}

namespace {

using Strides = std::array<int64_t, 4>;

SlicedConv2dParams make_params(const std::array<int64_t, 2>& sizes, const std::array<int64_t, 3>& input,
                               const std::array<int64_t, 3>& output, const std::array<int64_t, 2>& kernel,
                               int64_t stride, int64_t padding, const Strides& input_stride,
                               const Strides& weight_stride, const Strides& output_stride) {
  SlicedConv2dParams p{sizes[0],  input[0], input[1], input[2], output[0], output[1], output[2], kernel[0],
                       kernel[1], stride,   padding,  sizes[1], {},        {},        {}};
  std::copy(input_stride.begin(), input_stride.end(), p.input_stride);
  std::copy(weight_stride.begin(), weight_stride.end(), p.weight_stride);
  std::copy(output_stride.begin(), output_stride.end(), p.output_stride);
  return p;
}

using CpuPass = Status (*)(const SlicedConv2dParams&, const float*, const float*, void*, int, Isa, float*);

template <CpuPass pass>
void run_cpu(const SlicedConv2dParams& p, Address first, Address second, Address workspace, int threads,
             int isa, Address result) {
  run_and_raise("sliced_conv2d", [&] {
    return pass(p, at<const float>(first), at<const float>(second), at<void>(workspace), threads,
                static_cast<Isa>(isa), at<float>(result));
  });
}

#ifdef LASFAST_CUDA
using CudaPass = Status (*)(const SlicedConv2dParams&, Dtype, const void*, const void*, void*, int, void*,
                            void*);

template <CudaPass pass>
void run_cuda(const SlicedConv2dParams& p, int dtype, Address first, Address second, Address workspace,
              int device, Address stream, Address result) {
  run_and_raise("sliced_conv2d", [&] {
    return pass(p, static_cast<Dtype>(dtype), at<const void>(first), at<const void>(second),
                at<void>(workspace), device, at<void>(stream), at<void>(result));
  });
}
#endif

// Names of the instruction sets for which `holds`, in rising order; an ISA's number is its place in isas().
std::vector<std::string> isas(bool (*holds)(Isa)) {
  std::vector<std::string> names;
  for (int i = 0; i < isa_count; ++i)
    if (holds(static_cast<Isa>(i))) names.emplace_back(isa_name(static_cast<Isa>(i)));
  return names;
}

std::vector<std::string> cuda_archs() {
  std::vector<std::string> archs;
  std::istringstream list(LASFAST_CUDA_ARCHS);
  for (std::string arch; std::getline(list, arch, ' ');)
    if (!arch.empty()) archs.push_back(arch);
  return archs;
}

}  // namespace

PYBIND11_MODULE(LASFAST_MODULE, m) {
  m.doc() = "Native code of lasfast. Use lasfast.ops; this module checks little.";

  m.def("isa_names", [] { return isas([](Isa) { return true; }); });
  m.def("isas_compiled", [] { return isas(isa_compiled); });
  m.def("isas_supported", [] { return isas(isa_supported); });
  m.def("isa_preferred", [] { return std::string(isa_name(isa_preferred())); });
  m.def("cuda_archs", &cuda_archs);
  m.attr("dtypes") = numbers<Dtype>({{"float32", Dtype::float32}, {"bfloat16", Dtype::bfloat16}});
  m.attr("activations") = numbers<Activation>({{"none", Activation::none},
                                               {"relu", Activation::relu},
                                               {"relu6", Activation::relu6},
                                               {"hardswish", Activation::hardswish},
                                               {"swish", Activation::swish},
                                               {"sigmoid", Activation::sigmoid},
                                               {"hardsigmoid", Activation::hardsigmoid}});
#ifdef _OPENMP
  m.attr("openmp") = true;
#else
  m.attr("openmp") = false;
#endif
  m.attr("compiler") = LASFAST_COMPILER;
#ifdef LASFAST_CUDA
  m.attr("cuda") = true;
  m.def("cuda_runtime_version", &cuda_runtime_version);
  m.def("cuda_driver_version", &cuda_driver_version);
  m.def("cuda_device_count", &cuda_device_count, py::call_guard<py::gil_scoped_release>());
#else
  m.attr("cuda") = false;
#endif
#ifdef LASFAST_EMULATE
  m.def("set_reversed", &device::set_reversed);
#endif

  bind_bn_act(m);
  bind_schedule(m);
  bind_sgd(m);

  py::enum_<Pass>(m, "Pass", py::module_local())
      .value("forward", Pass::forward)
      .value("grad_input", Pass::grad_input)
      .value("grad_weight", Pass::grad_weight);
  bind_depthwise_nhwc(m);
  bind_conv2d_nhwc(m);

  py::class_<SlicedConv2dParams>(m, "SlicedConv2dParams", py::module_local())
      .def(py::init(&make_params), py::arg("sizes"), py::arg("input"), py::arg("output"), py::arg("kernel"),
           py::arg("stride"), py::arg("padding"), py::arg("input_stride"), py::arg("weight_stride"),
           py::arg("output_stride"));
  m.def("sliced_conv2d_workspace_cpu", &sliced_conv2d_workspace_cpu);
  m.def("sliced_conv2d_forward_cpu", &run_cpu<sliced_conv2d_forward_cpu>);
  m.def("sliced_conv2d_grad_input_cpu", &run_cpu<sliced_conv2d_grad_input_cpu>);
  m.def("sliced_conv2d_grad_weight_cpu", &run_cpu<sliced_conv2d_grad_weight_cpu>);
#ifdef LASFAST_CUDA
  bind_schedule_cuda(m);
  m.def("sliced_conv2d_workspace_cuda", &sliced_conv2d_workspace_cuda);
  m.def("sliced_conv2d_forward_cuda", &run_cuda<sliced_conv2d_forward_cuda>);
  m.def("sliced_conv2d_grad_input_cuda", &run_cuda<sliced_conv2d_grad_input_cuda>);
  m.def("sliced_conv2d_grad_weight_cuda", &run_cuda<sliced_conv2d_grad_weight_cuda>);
#endif
}
