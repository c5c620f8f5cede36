// Depthwise convolutions on NHWC values, for Python. Takes module.cpp's `Pass`.
#include "lasfast/depthwise_nhwc.h"

#include <algorithm>
#include <array>

#include "bindings.h"

namespace lasfast {
namespace {

namespace py = pybind11;
using py::arg;

using Stride = std::array<int64_t, 3>;

constexpr char where[] = "depthwise_nhwc";

DepthwiseNhwcParams make_params(const std::array<int64_t, 2>& sizes, const std::array<int64_t, 2>& input,
                                const std::array<int64_t, 2>& output, int64_t kernel, int64_t stride,
                                int64_t padding, const Stride& weight_stride, Dtype weight_dtype,
                                Dtype storage) {
  DepthwiseNhwcParams p{};
  p.batch = sizes[0], p.channels = sizes[1];
  p.height = input[0], p.width = input[1];
  p.out_height = output[0], p.out_width = output[1];
  p.kernel = kernel, p.stride = stride, p.padding = padding;
  std::copy(weight_stride.begin(), weight_stride.end(), p.weight_stride);
  p.weight_dtype = weight_dtype, p.storage = storage;
  return p;
}

using Source = Pointer<const void>;

// Both gradients in one call.
template <class... P>
auto backward(Status (*pass)(const DepthwiseNhwcParams&, const void*, const void*, const void*,
                             const int64_t*, P...)) {
  return [=](const DepthwiseNhwcParams& p, Source grad_output, Source input, Source weight,
             const Stride& grad_weight_stride, Received<P>... values) {
    run_and_raise(where,
                  [&] { return pass(p, grad_output, input, weight, grad_weight_stride.data(), values...); });
  };
}

template <class Forward, class GradInput, class GradWeight, class Backward>
void bind_passes(py::module_& m, const Place& place, Forward forward, GradInput grad_input,
                 GradWeight grad_weight, Backward both) {
  const arg params("params"), workspace("workspace"), first(place.first), second(place.second);
  m.def(place.named("depthwise_nhwc_forward").c_str(), native(where, forward), params, arg("input"),
        arg("weight"), workspace, first, second, arg("output"), arg("mean"), arg("variance"));
  m.def(place.named("depthwise_nhwc_grad_input").c_str(), native(where, grad_input), params,
        arg("grad_output"), arg("weight"), workspace, first, second, arg("grad_input"));
  m.def(place.named("depthwise_nhwc_grad_weight").c_str(), native(where, grad_weight), params,
        arg("grad_output"), arg("input"), workspace, first, second, arg("grad_weight"));
  m.def(place.named("depthwise_nhwc_backward").c_str(), backward(both), params, arg("grad_output"),
        arg("input"), arg("weight"), arg("grad_weight_stride"), workspace, first, second, arg("grad_input"),
        arg("grad_weight"));
}

}  // namespace

void bind_depthwise_nhwc(py::module_& m) {
  py::class_<DepthwiseNhwcParams>(m, "DepthwiseNhwcParams", py::module_local(),
                                  "`sizes` are (images, channels), `input` and `output` are (height, width).")
      .def(py::init(&make_params), arg("sizes"), arg("input"), arg("output"), arg("kernel"), arg("stride"),
           arg("padding"), arg("weight_stride"), arg("weight_dtype"), arg("storage"));
  m.def("depthwise_nhwc_workspace_cpu", &depthwise_nhwc_workspace_cpu, arg("params"), arg("which"),
        arg("isa"));
  bind_passes(m, cpu, &depthwise_nhwc_forward_cpu, &depthwise_nhwc_grad_input_cpu,
              &depthwise_nhwc_grad_weight_cpu, &depthwise_nhwc_backward_cpu);
  bind_prediction(m, "depthwise_nhwc_predict", prediction(where, &depthwise_nhwc_predict_cpu));
#ifdef LASFAST_CUDA
  m.def("depthwise_nhwc_why_not_cuda", why_not(where, &depthwise_nhwc_supported_cuda), arg("params"),
        "Why the passes cannot be run; None where they can.");
  m.def("depthwise_nhwc_workspace_cuda", &depthwise_nhwc_workspace_cuda, arg("params"), arg("which"));
  bind_passes(m, cuda, &depthwise_nhwc_forward_cuda, &depthwise_nhwc_grad_input_cuda,
              &depthwise_nhwc_grad_weight_cuda, &depthwise_nhwc_backward_cuda);
#endif
}

}  // namespace lasfast
