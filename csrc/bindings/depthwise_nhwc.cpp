// Depthwise convolution on NHWC values for Python; tensors arrive as addresses.
#include "lasfast/depthwise_nhwc.h"

#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>

#include "bindings.h"

namespace py = pybind11;
using namespace lasfast;

namespace {

DepthwiseNhwcParams make_params(const std::array<int64_t, 2>& sizes, const std::array<int64_t, 2>& input,
                                const std::array<int64_t, 2>& output, int64_t kernel, int64_t stride,
                                int64_t padding, const std::array<int64_t, 3>& weight_stride,
                                int weight_dtype, int storage) {
  return {sizes[0],
          sizes[1],
          input[0],
          input[1],
          output[0],
          output[1],
          kernel,
          stride,
          padding,
          {weight_stride[0], weight_stride[1], weight_stride[2]},
          static_cast<Dtype>(weight_dtype),
          static_cast<Dtype>(storage)};
}

int64_t workspace_bytes(const DepthwiseNhwcParams& p, Pass pass, int isa) {
  return depthwise_nhwc_workspace_cpu(p, pass, static_cast<Isa>(isa));
}

template <class F>
void run(const F& pass) {
  run_and_raise("depthwise_nhwc", pass);
}

void forward(const DepthwiseNhwcParams& p, Address input, Address weight, Address workspace, int threads,
             int isa, Address output, Address mean, Address variance) {
  run([&] {
    return depthwise_nhwc_forward_cpu(p, at<const void>(input), at<const void>(weight), at<void>(workspace),
                                      threads, static_cast<Isa>(isa), at<void>(output), at<float>(mean),
                                      at<float>(variance));
  });
}

template <class T>
using Gradient = Status (*)(const DepthwiseNhwcParams&, const void*, const void*, void*, int, Isa, T*);

template <class T, Gradient<T> pass>
void gradient(const DepthwiseNhwcParams& p, Address grad_output, Address other, Address workspace,
              int threads, int isa, Address result) {
  run([&] {
    return pass(p, at<const void>(grad_output), at<const void>(other), at<void>(workspace), threads,
                static_cast<Isa>(isa), at<T>(result));
  });
}

void backward(const DepthwiseNhwcParams& p, Address grad_output, Address input, Address weight,
              const std::array<int64_t, 3>& grad_weight_stride, Address workspace, int threads, int isa,
              Address grad_input, Address grad_weight) {
  run([&] {
    return depthwise_nhwc_backward_cpu(p, at<const void>(grad_output), at<const void>(input),
                                       at<const void>(weight), grad_weight_stride.data(), at<void>(workspace),
                                       threads, static_cast<Isa>(isa), at<void>(grad_input),
                                       at<float>(grad_weight));
  });
}

#ifdef LASFAST_CUDA
std::optional<std::string> why_not_cuda(const DepthwiseNhwcParams& p) {
  const Status status = depthwise_nhwc_supported_cuda(p);
  if (status.code == Code::unsupported) return status.what;
  raise(status, "depthwise_nhwc");
  return {};
}

void forward_cuda(const DepthwiseNhwcParams& p, Address input, Address weight, Address workspace, int device,
                  Address stream, Address output, Address mean, Address variance) {
  run([&] {
    return depthwise_nhwc_forward_cuda(p, at<const void>(input), at<const void>(weight), at<void>(workspace),
                                       device, at<void>(stream), at<void>(output), at<float>(mean),
                                       at<float>(variance));
  });
}

template <class T>
using CudaGradient = Status (*)(const DepthwiseNhwcParams&, const void*, const void*, void*, int, void*, T*);

template <class T, CudaGradient<T> pass>
void gradient_cuda(const DepthwiseNhwcParams& p, Address grad_output, Address other, Address workspace,
                   int device, Address stream, Address result) {
  run([&] {
    return pass(p, at<const void>(grad_output), at<const void>(other), at<void>(workspace), device,
                at<void>(stream), at<T>(result));
  });
}

void backward_cuda(const DepthwiseNhwcParams& p, Address grad_output, Address input, Address weight,
                   const std::array<int64_t, 3>& grad_weight_stride, Address workspace, int device,
                   Address stream, Address grad_input, Address grad_weight) {
  run([&] {
    return depthwise_nhwc_backward_cuda(p, at<const void>(grad_output), at<const void>(input),
                                        at<const void>(weight), grad_weight_stride.data(),
                                        at<void>(workspace), device, at<void>(stream), at<void>(grad_input),
                                        at<float>(grad_weight));
  });
}
#endif

}  // namespace

void bind_depthwise_nhwc(py::module_& m) {
  py::class_<DepthwiseNhwcParams>(m, "DepthwiseNhwcParams", py::module_local())
      .def(py::init(&make_params), py::arg("sizes"), py::arg("input"), py::arg("output"), py::arg("kernel"),
           py::arg("stride"), py::arg("padding"), py::arg("weight_stride"), py::arg("weight_dtype"),
           py::arg("storage"));
  m.def("depthwise_nhwc_workspace_cpu", &workspace_bytes);
  m.def("depthwise_nhwc_forward_cpu", &forward);
  m.def("depthwise_nhwc_grad_input_cpu", &gradient<void, depthwise_nhwc_grad_input_cpu>);
  m.def("depthwise_nhwc_backward_cpu", &backward);
  m.def("depthwise_nhwc_grad_weight_cpu", &gradient<float, depthwise_nhwc_grad_weight_cpu>);
#ifdef LASFAST_CUDA
  m.def("depthwise_nhwc_why_not_cuda", &why_not_cuda);
  m.def("depthwise_nhwc_workspace_cuda", &depthwise_nhwc_workspace_cuda);
  m.def("depthwise_nhwc_forward_cuda", &forward_cuda);
  m.def("depthwise_nhwc_grad_input_cuda", &gradient_cuda<void, depthwise_nhwc_grad_input_cuda>);
  m.def("depthwise_nhwc_backward_cuda", &backward_cuda);
  m.def("depthwise_nhwc_grad_weight_cuda", &gradient_cuda<float, depthwise_nhwc_grad_weight_cuda>);
#endif
}
