// Convolutions that read slices of weights in place, for Python. Takes module.cpp's `Pass`.
#include "lasfast/sliced_conv2d.h"

#include <algorithm>
#include <array>

#include "bindings.h"

namespace lasfast {
namespace {

namespace py = pybind11;
using py::arg;

using Stride = std::array<int64_t, 4>;

constexpr char where[] = "sliced_conv2d";

SlicedConv2dParams make_params(const std::array<int64_t, 2>& sizes, const std::array<int64_t, 3>& input,
                               const std::array<int64_t, 3>& output, const std::array<int64_t, 2>& kernel,
                               int64_t stride, int64_t padding, const Stride& input_stride,
                               const Stride& weight_stride, const Stride& output_stride) {
  SlicedConv2dParams p{};
  p.batch = sizes[0], p.groups = sizes[1];
  p.c_in = input[0], p.height = input[1], p.width = input[2];
  p.c_out = output[0], p.out_height = output[1], p.out_width = output[2];
  p.kernel_h = kernel[0], p.kernel_w = kernel[1];
  p.stride = stride, p.padding = padding;
  std::copy(input_stride.begin(), input_stride.end(), p.input_stride);
  std::copy(weight_stride.begin(), weight_stride.end(), p.weight_stride);
  std::copy(output_stride.begin(), output_stride.end(), p.output_stride);
  return p;
}

// `dtype`: CUDA's passes take it behind the parameters.
template <class Pass, class... Dtype>
void bind_passes(py::module_& m, const Place& place, Pass forward, Pass grad_input, Pass grad_weight,
                 const Dtype&... dtype) {
  const arg params("params"), workspace("workspace"), first(place.first), second(place.second);
  m.def(place.named("sliced_conv2d_forward").c_str(), native(where, forward), params, dtype..., arg("input"),
        arg("weight"), workspace, first, second, arg("output"));
  m.def(place.named("sliced_conv2d_grad_input").c_str(), native(where, grad_input), params, dtype...,
        arg("grad_output"), arg("weight"), workspace, first, second, arg("grad_input"));
  m.def(place.named("sliced_conv2d_grad_weight").c_str(), native(where, grad_weight), params, dtype...,
        arg("grad_output"), arg("input"), workspace, first, second, arg("grad_weight"));
}

}  // namespace

void bind_sliced_conv2d(py::module_& m) {
  py::class_<SlicedConv2dParams>(m, "SlicedConv2dParams", py::module_local(),
                                 "`sizes` are (images, groups); the others are (channels, height, width).")
      .def(py::init(&make_params), arg("sizes"), arg("input"), arg("output"), arg("kernel"), arg("stride"),
           arg("padding"), arg("input_stride"), arg("weight_stride"), arg("output_stride"));
  m.def("sliced_conv2d_workspace_cpu", &sliced_conv2d_workspace_cpu, arg("params"), arg("which"),
        arg("threads"));
  bind_passes(m, cpu, &sliced_conv2d_forward_cpu, &sliced_conv2d_grad_input_cpu,
              &sliced_conv2d_grad_weight_cpu);
#ifdef LASFAST_CUDA
  m.def("sliced_conv2d_workspace_cuda", &sliced_conv2d_workspace_cuda, arg("params"), arg("which"));
  bind_passes(m, cuda, &sliced_conv2d_forward_cuda, &sliced_conv2d_grad_input_cuda,
              &sliced_conv2d_grad_weight_cuda, arg("dtype"));
#endif
}

}  // namespace lasfast
