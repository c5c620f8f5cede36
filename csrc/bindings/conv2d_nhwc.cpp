// Convolutions on dense NHWC values, for Python. Takes module.cpp's `Pass`.
#include "lasfast/conv2d_nhwc.h"

#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <string>

#include "bindings.h"

namespace py = pybind11;
using namespace lasfast;

namespace {

Conv2dNhwcParams make_params(int64_t batch, const std::array<int64_t, 3>& input,
                             const std::array<int64_t, 3>& output, int64_t kernel, int64_t stride,
                             int64_t padding, const std::array<int64_t, 4>& weight_stride, int storage,
                             int weight, bool tf32, bool warpgroups) {
  Conv2dNhwcParams p{batch,
                     input[0],
                     input[1],
                     input[2],
                     output[0],
                     output[1],
                     output[2],
                     kernel,
                     stride,
                     padding,
                     {},
                     static_cast<Dtype>(storage),
                     static_cast<Dtype>(weight),
                     tf32,
                     warpgroups};
  std::copy(weight_stride.begin(), weight_stride.end(), p.weight_stride);
  return p;
}

// Why not, or None.
std::optional<std::string> why_not(const Conv2dNhwcParams& p, Pass pass, int isa) {
  const Status status = conv2d_nhwc_supported(p, pass, static_cast<Isa>(isa));
  if (status.code == Code::unsupported) return status.what;
  raise(status, "conv2d_nhwc");
  return {};
}

int64_t workspace(const Conv2dNhwcParams& p, Pass pass, int threads, int isa) {
  return conv2d_nhwc_workspace_cpu(p, pass, threads, static_cast<Isa>(isa));
}

template <class F>
void run(const F& pass) {
  run_and_raise("conv2d_nhwc", pass);
}

void forward(const Conv2dNhwcParams& p, Address input, Address weight, Address scratch, int threads, int isa,
             Address output, Address mean, Address variance) {
  run([&] {
    return conv2d_nhwc_forward_cpu(p, at<const void>(input), at<const void>(weight), at<void>(scratch),
                                   threads, static_cast<Isa>(isa), at<void>(output), at<float>(mean),
                                   at<float>(variance));
  });
}

void grad_input(const Conv2dNhwcParams& p, Address grad_output, Address weight, Address scratch, int threads,
                int isa, Address result) {
  run([&] {
    return conv2d_nhwc_grad_input_cpu(p, at<const void>(grad_output), at<const void>(weight),
                                      at<void>(scratch), threads, static_cast<Isa>(isa), at<void>(result));
  });
}

void grad_weight(const Conv2dNhwcParams& p, Address grad_output, Address input, Address scratch, int threads,
                 int isa, Address result) {
  run([&] {
    return conv2d_nhwc_grad_weight_cpu(p, at<const void>(grad_output), at<const void>(input),
                                       at<void>(scratch), threads, static_cast<Isa>(isa), at<float>(result));
  });
}

#ifdef LASFAST_CUDA
std::optional<std::string> why_not_cuda(const Conv2dNhwcParams& p, Pass pass) {
  const Status status = conv2d_nhwc_supported_cuda(p, pass);
  if (status.code == Code::unsupported) return status.what;
  raise(status, "conv2d_nhwc");
  return {};
}

void forward_cuda(const Conv2dNhwcParams& p, Address input, Address weight, Address scratch, int device,
                  Address stream, Address output, Address mean, Address variance) {
  run([&] {
    return conv2d_nhwc_forward_cuda(p, at<const void>(input), at<const void>(weight), at<void>(scratch),
                                    device, at<void>(stream), at<void>(output), at<float>(mean),
                                    at<float>(variance));
  });
}

void grad_input_cuda(const Conv2dNhwcParams& p, Address grad_output, Address weight, Address scratch,
                     int device, Address stream, Address result) {
  run([&] {
    return conv2d_nhwc_grad_input_cuda(p, at<const void>(grad_output), at<const void>(weight),
                                       at<void>(scratch), device, at<void>(stream), at<void>(result));
  });
}

void grad_weight_cuda(const Conv2dNhwcParams& p, Address grad_output, Address input, Address scratch,
                      int device, Address stream, Address result) {
  run([&] {
    return conv2d_nhwc_grad_weight_cuda(p, at<const void>(grad_output), at<const void>(input),
                                        at<void>(scratch), device, at<void>(stream), at<float>(result));
  });
}
#endif

}  // namespace

void bind_conv2d_nhwc(py::module_& m) {
  using py::arg;
  py::class_<Conv2dNhwcParams>(m, "Conv2dNhwcParams", py::module_local())
      .def(py::init(&make_params), arg("batch"), arg("input"), arg("output"), arg("kernel"), arg("stride"),
           arg("padding"), arg("weight_stride"), arg("storage"), arg("weight"), arg("tf32") = false,
           arg("warpgroups") = false);
  m.def("conv2d_nhwc_why_not", &why_not, arg("params"), arg("which"), arg("isa"));
  m.def("conv2d_nhwc_workspace_cpu", &workspace, arg("params"), arg("which"), arg("threads"), arg("isa"));
  m.def("conv2d_nhwc_forward_cpu", &forward, arg("params"), arg("input"), arg("weight"), arg("workspace"),
        arg("threads"), arg("isa"), arg("output"), arg("mean"), arg("variance"));
  m.def("conv2d_nhwc_grad_input_cpu", &grad_input, arg("params"), arg("grad_output"), arg("weight"),
        arg("workspace"), arg("threads"), arg("isa"), arg("grad_input"));
  m.def("conv2d_nhwc_grad_weight_cpu", &grad_weight, arg("params"), arg("grad_output"), arg("input"),
        arg("workspace"), arg("threads"), arg("isa"), arg("grad_weight"));
#ifdef LASFAST_CUDA
  m.def("conv2d_nhwc_why_not_cuda", &why_not_cuda, arg("params"), arg("which"));
  m.def("conv2d_nhwc_workspace_cuda", &conv2d_nhwc_workspace_cuda, arg("params"), arg("which"));
  m.def("conv2d_nhwc_forward_cuda", &forward_cuda, arg("params"), arg("input"), arg("weight"),
        arg("workspace"), arg("device"), arg("stream"), arg("output"), arg("mean"), arg("variance"));
  m.def("conv2d_nhwc_grad_input_cuda", &grad_input_cuda, arg("params"), arg("grad_output"), arg("weight"),
        arg("workspace"), arg("device"), arg("stream"), arg("grad_input"));
  m.def("conv2d_nhwc_grad_weight_cuda", &grad_weight_cuda, arg("params"), arg("grad_output"), arg("input"),
        arg("workspace"), arg("device"), arg("stream"), arg("grad_weight"));
#endif
}
