// lasfast._C: the native code for Python. This folder is the only place that knows pybind11. The Python side
// (lasfast/ops/*_kernels.py) has checked devices, types and shapes, and keeps the tensors alive.
//
// Built once more as lasfast._emulated, in which the CUDA kernels run on the host (csrc/cuda/device_host.h),
// for the test-suite.
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

namespace lasfast {

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
}  // namespace lasfast

PYBIND11_MODULE(LASFAST_MODULE, m) {
  using namespace lasfast;
  m.doc() =
      "Native code of lasfast. Use lasfast.ops: this module checks little.\n\n"
      "Tensors arrive as the addresses of their data (`data_ptr()`), 0 where there is none; strides are in\n"
      "elements; dtypes, activations and instruction sets are numbers. What functions compute is said in\n"
      "csrc/include/lasfast, in the header that their name begins with. Those with `cuda` in their names "
      "exist\n"
      "in CUDA builds only, and all that they are given lies in the device's memory.";

  m.def(
      "isa_names", [] { return isas([](Isa) { return true; }); },
      "The names of all instruction sets; an instruction set's number is its place among them.");
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
  m.def("noted_tiles", &device::noted_tiles);
  m.def("set_shared_limits", &device::set_shared_limits);
  m.def("noted_launches", &device::noted_launches);
  m.def("set_device_count", &device::set_device_count);
  m.def("set_idle", &device::set_idle);
  m.def("set_maps", &device::set_maps);
  m.def("try_copies", &device::try_copies);
  m.def("is_warpgroup_tile", &device::is_warpgroup_tile, py::arg("descriptor"), py::arg("transposed"));
#endif

  bind_bn_act(m);
  bind_schedule(m);
  bind_sgd(m);

  py::enum_<Pass>(m, "Pass", py::module_local())
      .value("forward", Pass::forward)
      .value("grad_input", Pass::grad_input)
      .value("grad_weight", Pass::grad_weight);
  bind_depthwise_nhwc(m);
  bind_grouped_nhwc(m);
  bind_conv2d_nhwc(m);
  bind_sliced_conv2d(m);
#ifdef LASFAST_CUDA
  bind_schedule_cuda(m);
#endif
}
