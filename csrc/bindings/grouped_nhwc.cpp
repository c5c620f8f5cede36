// Grouped convolutions on NHWC values, for Python. Takes module.cpp's `Pass`.
#include "lasfast/grouped_nhwc.h"

#include <algorithm>
#include <array>

#include "bindings.h"

namespace lasfast {
namespace {

namespace py = pybind11;
using py::arg;

constexpr char where[] = "grouped_nhwc";

GroupedNhwcParams make_params(const std::array<int64_t, 2>& sizes, const std::array<int64_t, 3>& input,
                              const std::array<int64_t, 3>& output, int64_t kernel, int64_t stride,
                              int64_t padding, const std::array<int64_t, 4>& weight_stride,
                              Dtype weight_dtype, Dtype storage) {
  GroupedNhwcParams p{};
  p.batch = sizes[0], p.groups = sizes[1];
  p.c_in = input[0], p.height = input[1], p.width = input[2];
  p.c_out = output[0], p.out_height = output[1], p.out_width = output[2];
  p.kernel = kernel, p.stride = stride, p.padding = padding;
  std::copy(weight_stride.begin(), weight_stride.end(), p.weight_stride);
  p.weight_dtype = weight_dtype, p.storage = storage;
  return p;
}

}  // namespace

void bind_grouped_nhwc(py::module_& m) {
  py::class_<GroupedNhwcParams>(
      m, "GroupedNhwcParams", py::module_local(),
      "`sizes` are (images, groups), `input` and `output` are (channels, height, width).")
      .def(py::init(&make_params), arg("sizes"), arg("input"), arg("output"), arg("kernel"), arg("stride"),
           arg("padding"), arg("weight_stride"), arg("weight_dtype"), arg("storage"));
  const arg params("params"), workspace("workspace"), threads("threads"), isa("isa");
  m.def("grouped_nhwc_workspace_cpu", &grouped_nhwc_workspace_cpu, params, arg("which"), threads, isa);
  m.def("grouped_nhwc_forward_cpu", native(where, &grouped_nhwc_forward_cpu), params, arg("input"),
        arg("weight"), workspace, threads, isa, arg("output"), arg("mean"), arg("variance"));
  m.def("grouped_nhwc_grad_input_cpu", native(where, &grouped_nhwc_grad_input_cpu), params,
        arg("grad_output"), arg("weight"), workspace, threads, isa, arg("grad_input"));
  m.def("grouped_nhwc_grad_weight_cpu", native(where, &grouped_nhwc_grad_weight_cpu), params,
        arg("grad_output"), arg("input"), workspace, threads, isa, arg("grad_weight"));
  bind_prediction(m, "grouped_nhwc_predict", prediction(where, &grouped_nhwc_predict_cpu));
}

}  // namespace lasfast
