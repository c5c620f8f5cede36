// Batch norm and activation for Python: everything arrives as numbers, since networks have hundreds of small
// ones and records would cost time. Each pass is there for the CPU and for CUDA, with two numbers between the
// workspace and the outputs that say where: threads and instruction set, or device and stream.
#include "lasfast/bn_act.h"

#include "bindings.h"

namespace py = pybind11;
using namespace lasfast;

namespace {

struct Cpu {
  static constexpr auto statistics = batch_statistics_cpu;
  static constexpr auto forward = bn_act_forward_cpu;
  static constexpr auto backward = bn_act_backward_cpu;
  static constexpr auto sums = bn_act_sums_cpu;
  static constexpr auto grad_x = bn_act_grad_x_cpu;
  static Isa second(Address isa) { return static_cast<Isa>(isa); }
};

#ifdef LASFAST_CUDA
struct Cuda {
  static constexpr auto statistics = batch_statistics_cuda;
  static constexpr auto forward = bn_act_forward_cuda;
  static constexpr auto backward = bn_act_backward_cuda;
  static constexpr auto sums = bn_act_sums_cuda;
  static constexpr auto grad_x = bn_act_grad_x_cuda;
  static void* second(Address stream) { return at<void>(stream); }
};
#endif

BnActParams make_params(int64_t rows, int64_t channels, int64_t residual_channels, int storage,
                        int activation, bool batch_statistics, float eps) {
  return {rows,
          channels,
          residual_channels,
          static_cast<Dtype>(storage),
          static_cast<Activation>(activation),
          batch_statistics,
          eps};
}

int64_t workspace_cpu(int64_t rows, int64_t channels, int64_t residual_channels, int threads) {
  return bn_act_workspace_cpu(make_params(rows, channels, residual_channels, 0, 0, false, 0.f), threads);
}

template <class Place>
void statistics(int64_t rows, int64_t channels, int storage, Address x, Address workspace, int first,
                Address second, Address mean, Address var) {
  run_and_raise("batch_statistics", [&] {
    return Place::statistics(make_params(rows, channels, 0, storage, 0, true, 0.f), at<const void>(x),
                             at<void>(workspace), first, Place::second(second), at<float>(mean),
                             at<float>(var));
  });
}

void update_running(int64_t rows, int64_t channels, Address mean, Address var, double momentum,
                    Address running_mean, Address running_var) {
  raise(update_running_cpu(rows, channels, at<const float>(mean), at<const float>(var), momentum,
                           at<float>(running_mean), at<float>(running_var)),
        "update_running");
}

template <class Place>
void forward(int64_t rows, int64_t channels, int64_t residual_channels, int storage, int activation,
             float eps, Address x, Address mean, Address var, Address weight, Address bias, Address residual,
             Address workspace, int first, Address second, Address y) {
  run_and_raise("bn_act", [&] {
    return Place::forward(make_params(rows, channels, residual_channels, storage, activation, false, eps),
                          at<const void>(x), at<const float>(mean), at<const float>(var),
                          at<const float>(weight), at<const float>(bias), at<const void>(residual),
                          at<void>(workspace), first, Place::second(second), at<void>(y));
  });
}

template <class Place>
void backward(int64_t rows, int64_t channels, int64_t residual_channels, int storage, int activation,
              bool batch_statistics, float eps, Address grad, Address x, Address mean, Address var,
              Address weight, Address bias, Address residual, Address workspace, int first, Address second,
              Address grad_x, Address grad_weight, Address grad_bias, Address grad_residual) {
  run_and_raise("bn_act_backward", [&] {
    return Place::backward(
        make_params(rows, channels, residual_channels, storage, activation, batch_statistics, eps),
        at<const void>(grad), at<const void>(x), at<const float>(mean), at<const float>(var),
        at<const float>(weight), at<const float>(bias), at<const void>(residual), at<void>(workspace), first,
        Place::second(second), at<void>(grad_x), at<float>(grad_weight), at<float>(grad_bias),
        at<void>(grad_residual));
  });
}

template <class Place>
void sums(int64_t rows, int64_t channels, int64_t residual_channels, int storage, int activation, float eps,
          Address grad, Address x, Address mean, Address var, Address weight, Address bias, Address residual,
          Address workspace, int first, Address second, Address sums, Address grad_weight, Address grad_bias,
          Address grad_residual) {
  run_and_raise("bn_act_sums", [&] {
    return Place::sums(make_params(rows, channels, residual_channels, storage, activation, true, eps),
                       at<const void>(grad), at<const void>(x), at<const float>(mean), at<const float>(var),
                       at<const float>(weight), at<const float>(bias), at<const void>(residual),
                       at<void>(workspace), first, Place::second(second), at<double>(sums),
                       at<float>(grad_weight), at<float>(grad_bias), at<void>(grad_residual));
  });
}

template <class Place>
void grad_x(int64_t rows, int64_t channels, int64_t residual_channels, int storage, int activation, float eps,
            Address grad, Address x, Address mean, Address var, Address weight, Address bias,
            Address residual, Address dz, Address sums, Address workspace, int first, Address second,
            Address grad_x) {
  run_and_raise("bn_act_grad_x", [&] {
    return Place::grad_x(make_params(rows, channels, residual_channels, storage, activation, true, eps),
                         at<const void>(grad), at<const void>(x), at<const float>(mean), at<const float>(var),
                         at<const float>(weight), at<const float>(bias), at<const void>(residual),
                         at<const void>(dz), at<const double>(sums), at<void>(workspace), first,
                         Place::second(second), at<void>(grad_x));
  });
}

#ifdef LASFAST_CUDA
int64_t workspace_cuda(int64_t rows, int64_t channels, int64_t residual_channels) {
  return bn_act_workspace_cuda(make_params(rows, channels, residual_channels, 0, 0, false, 0.f));
}

void update_running_on(int64_t rows, int64_t channels, Address mean, Address var, double momentum, int device,
                       Address stream, Address running_mean, Address running_var) {
  raise(update_running_cuda(rows, channels, at<const float>(mean), at<const float>(var), momentum, device,
                            at<void>(stream), at<float>(running_mean), at<float>(running_var)),
        "update_running");
}
#endif

}  // namespace

void bind_bn_act(py::module_& m) {
  m.def("bn_act_workspace_cpu", &workspace_cpu);
  m.def("batch_statistics_cpu", &statistics<Cpu>);
  m.def("update_running_cpu", &update_running);
  m.def("bn_act_forward_cpu", &forward<Cpu>);
  m.def("bn_act_backward_cpu", &backward<Cpu>);
  m.def("bn_act_sums_cpu", &sums<Cpu>);
  m.def("bn_act_grad_x_cpu", &grad_x<Cpu>);
#ifdef LASFAST_CUDA
  m.def("bn_act_workspace_cuda", &workspace_cuda);
  m.def("batch_statistics_cuda", &statistics<Cuda>);
  m.def("update_running_cuda", &update_running_on);
  m.def("bn_act_forward_cuda", &forward<Cuda>);
  m.def("bn_act_backward_cuda", &backward<Cuda>);
  m.def("bn_act_sums_cuda", &sums<Cuda>);
  m.def("bn_act_grad_x_cuda", &grad_x<Cuda>);
#endif
}
