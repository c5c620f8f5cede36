// Convolutions on dense NHWC values, for Python. Takes module.cpp's `Pass`.
#include "lasfast/conv2d_nhwc.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <vector>

#include "bindings.h"

namespace lasfast {
namespace {

namespace py = pybind11;
using py::arg;

constexpr char where[] = "conv2d_nhwc";

Conv2dNhwcParams make_params(int64_t batch, const std::array<int64_t, 3>& input,
                             const std::array<int64_t, 3>& output, int64_t kernel, int64_t stride,
                             int64_t padding, const std::array<int64_t, 4>& weight_stride, Dtype storage,
                             Dtype weight, bool tf32, bool warpgroups, bool packed, bool early,
                             int64_t tile) {
  Conv2dNhwcParams p{};
  p.batch = batch;
  p.c_in = input[0], p.height = input[1], p.width = input[2];
  p.c_out = output[0], p.out_height = output[1], p.out_width = output[2];
  p.kernel = kernel, p.stride = stride, p.padding = padding;
  std::copy(weight_stride.begin(), weight_stride.end(), p.weight_stride);
  p.storage = storage, p.weight = weight;
  p.tf32 = tf32, p.warpgroups = warpgroups, p.packed = packed, p.early = early, p.tile = tile;
  return p;
}

template <class Forward, class GradInput, class GradWeight>
void bind_passes(py::module_& m, const Place& place, Forward forward, GradInput grad_input,
                 GradWeight grad_weight) {
  const arg params("params"), workspace("workspace"), first(place.first), second(place.second);
  m.def(place.named("conv2d_nhwc_forward").c_str(), native(where, forward), params, arg("input"),
        arg("weight"), workspace, first, second, arg("output"), arg("mean"), arg("variance"));
  m.def(place.named("conv2d_nhwc_grad_input").c_str(), native(where, grad_input), params, arg("grad_output"),
        arg("weight"), workspace, first, second, arg("grad_input"));
  m.def(place.named("conv2d_nhwc_grad_weight").c_str(), native(where, grad_weight), params,
        arg("grad_output"), arg("input"), workspace, first, second, arg("grad_weight"));
}

#ifdef LASFAST_CUDA
using Packing = std::tuple<Conv2dNhwcParams, Pointer<const void>, Pointer<void>, Pointer<void>>;

void pack(const std::vector<Packing>& weights, int device, Pointer<void> stream) {
  std::vector<Conv2dNhwcPacking> packings;
  for (const auto& [params, weight, forward, grad_input] : weights)
    packings.push_back({params, weight, forward, grad_input});
  const auto count = static_cast<int64_t>(packings.size());
  run_and_raise(where, [&] { return conv2d_nhwc_pack_cuda(packings.data(), count, device, stream); });
}
#endif

}  // namespace

void bind_conv2d_nhwc(py::module_& m) {
  py::class_<Conv2dNhwcParams>(m, "Conv2dNhwcParams", py::module_local(),
                               "`input` and `output` are (channels, height, width).")
      .def(py::init(&make_params), arg("batch"), arg("input"), arg("output"), arg("kernel"), arg("stride"),
           arg("padding"), arg("weight_stride"), arg("storage"), arg("weight"), arg("tf32") = false,
           arg("warpgroups") = false, arg("packed") = false, arg("early") = false, arg("tile") = 0);
  m.def("conv2d_nhwc_why_not", why_not(where, &conv2d_nhwc_supported), arg("params"), arg("which"),
        arg("isa"), "Why a pass cannot be run; None where it can.");
  m.def("conv2d_nhwc_workspace_cpu", &conv2d_nhwc_workspace_cpu, arg("params"), arg("which"), arg("threads"),
        arg("isa"));
  bind_passes(m, cpu, &conv2d_nhwc_forward_cpu, &conv2d_nhwc_grad_input_cpu, &conv2d_nhwc_grad_weight_cpu);
  bind_prediction(m, "conv2d_nhwc_predict", prediction(where, &conv2d_nhwc_predict_cpu));
#ifdef LASFAST_CUDA
  m.def("conv2d_nhwc_why_not_cuda", why_not(where, &conv2d_nhwc_supported_cuda), arg("params"), arg("which"),
        "Why a pass cannot be run; None where it can.");
  m.def("conv2d_nhwc_workspace_cuda", &conv2d_nhwc_workspace_cuda, arg("params"), arg("which"));
  m.def("conv2d_nhwc_packed_bytes_cuda", &conv2d_nhwc_packed_bytes_cuda, arg("params"), arg("which"));
  m.def("conv2d_nhwc_pack_cuda", &pack, arg("weights"), arg("device"), arg("stream"),
        "Each weight: parameters, its address, where to for the forward pass and the input's gradient.");
  bind_passes(m, cuda, &conv2d_nhwc_forward_cuda, &conv2d_nhwc_grad_input_cuda,
              &conv2d_nhwc_grad_weight_cuda);
#endif
}

}  // namespace lasfast
