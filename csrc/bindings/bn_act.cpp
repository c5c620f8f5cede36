// Batch norm and activation for Python: everything arrives as numbers, since networks have hundreds of small
// ones and records would cost time.
#include "lasfast/bn_act.h"

#include "bindings.h"

namespace py = pybind11;
using namespace lasfast;

namespace {

template <class T>
T* at(Address address) {
  return reinterpret_cast<T*>(address);
}

BnActParams make_params(int64_t rows, int64_t channels, int64_t residual_channels, int storage,
                        int activation, bool batch_statistics, float eps) {
  return {rows,
          channels,
          residual_channels,
          static_cast<Storage>(storage),
          static_cast<Activation>(activation),
          batch_statistics,
          eps};
}

int64_t workspace_bytes(int64_t rows, int64_t channels, int64_t residual_channels, int threads) {
  return bn_act_workspace_cpu(make_params(rows, channels, residual_channels, 0, 0, false, 0.f), threads);
}

void statistics(int64_t rows, int64_t channels, int storage, Address x, Address workspace, int threads,
                int isa, Address mean, Address var) {
  Status status;
  {
    const py::gil_scoped_release release;
    status = batch_statistics_cpu(make_params(rows, channels, 0, storage, 0, true, 0.f), at<const void>(x),
                                  at<void>(workspace), threads, static_cast<Isa>(isa), at<float>(mean),
                                  at<float>(var));
  }
  raise(status, "batch_statistics");
}

void update_running(int64_t rows, int64_t channels, Address mean, Address var, double momentum,
                    Address running_mean, Address running_var) {
  raise(update_running_cpu(rows, channels, at<const float>(mean), at<const float>(var), momentum,
                           at<float>(running_mean), at<float>(running_var)),
        "update_running");
}

void forward(int64_t rows, int64_t channels, int64_t residual_channels, int storage, int activation,
             float eps, Address x, Address mean, Address var, Address weight, Address bias, Address residual,
             Address workspace, int threads, int isa, Address y) {
  Status status;
  {
    const py::gil_scoped_release release;
    status = bn_act_forward_cpu(
        make_params(rows, channels, residual_channels, storage, activation, false, eps), at<const void>(x),
        at<const float>(mean), at<const float>(var), at<const float>(weight), at<const float>(bias),
        at<const void>(residual), at<void>(workspace), threads, static_cast<Isa>(isa), at<void>(y));
  }
  raise(status, "bn_act");
}

void backward(int64_t rows, int64_t channels, int64_t residual_channels, int storage, int activation,
              bool batch_statistics, float eps, Address grad, Address x, Address mean, Address var,
              Address weight, Address bias, Address residual, Address workspace, int threads, int isa,
              Address grad_x, Address grad_weight, Address grad_bias, Address grad_residual) {
  Status status;
  {
    const py::gil_scoped_release release;
    status = bn_act_backward_cpu(
        make_params(rows, channels, residual_channels, storage, activation, batch_statistics, eps),
        at<const void>(grad), at<const void>(x), at<const float>(mean), at<const float>(var),
        at<const float>(weight), at<const float>(bias), at<const void>(residual), at<void>(workspace),
        threads, static_cast<Isa>(isa), at<void>(grad_x), at<float>(grad_weight), at<float>(grad_bias),
        at<void>(grad_residual));
  }
  raise(status, "bn_act_backward");
}

}  // namespace

void bind_bn_act(py::module_& m) {
  m.def("bn_act_workspace_cpu", &workspace_bytes);
  m.def("batch_statistics_cpu", &statistics);
  m.def("update_running_cpu", &update_running);
  m.def("bn_act_forward_cpu", &forward);
  m.def("bn_act_backward_cpu", &backward);
}
