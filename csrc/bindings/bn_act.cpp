// Batch norm and activation for Python: everything arrives as numbers, since networks have hundreds of small
// ones and records would cost time.
#include "lasfast/bn_act.h"

#include "bindings.h"

namespace lasfast {
namespace {

namespace py = pybind11;
using py::arg;

template <class... P>
auto statistics(Status (*pass)(const BnActParams&, P...)) {
  return [=](int64_t rows, int64_t channels, Dtype storage, Received<P>... values) {
    const BnActParams p{rows, channels, 0, storage, Activation::none, true, 0.f};
    run_and_raise("batch_statistics", [&] { return pass(p, values...); });
  };
}

// A pass that takes the statistics as the batch's, or as constants.
template <class... P>
auto with_statistics(const char* where, bool of_batch, Status (*pass)(const BnActParams&, P...)) {
  return [=](int64_t rows, int64_t channels, int64_t residual_channels, Dtype storage, Activation activation,
             float eps, Received<P>... values) {
    const BnActParams p{rows, channels, residual_channels, storage, activation, of_batch, eps};
    run_and_raise(where, [&] { return pass(p, values...); });
  };
}

template <class... P>
auto backward(Status (*pass)(const BnActParams&, P...)) {
  return [=](int64_t rows, int64_t channels, int64_t residual_channels, Dtype storage, Activation activation,
             bool batch_statistics, float eps, Received<P>... values) {
    const BnActParams p{rows, channels, residual_channels, storage, activation, batch_statistics, eps};
    run_and_raise("bn_act_backward", [&] { return pass(p, values...); });
  };
}

#ifdef LASFAST_CUDA
// A pass for the batch's statistics, with the counters of bn_act_counters_cuda, or null.
template <class... P>
auto counted(const char* where, Status (*pass)(const BnActParams&, P...)) {
  return [=](int64_t rows, int64_t channels, int64_t residual_channels, Dtype storage, Activation activation,
             float eps, bool early, Pointer<uint32_t> counters, Received<P>... values) {
    const BnActParams p{rows, channels, residual_channels, storage, activation, true, eps, counters, early};
    run_and_raise(where, [&] { return pass(p, values...); });
  };
}
#endif

BnActParams sizes(int64_t rows, int64_t channels, int64_t residual_channels) {
  return {rows, channels, residual_channels, Dtype::float32, Activation::none, false, 0.f};
}

template <class Statistics, class Forward, class Backward, class Sums, class GradX>
void bind_passes(py::module_& m, const Place& place, Statistics batch_statistics, Forward forward_pass,
                 Backward backward_pass, Sums sums, GradX grad_x) {
  const arg first(place.first), second(place.second);
  m.def(place.named("batch_statistics").c_str(), statistics(batch_statistics), arg("rows"), arg("channels"),
        arg("storage"), arg("x"), arg("workspace"), first, second, arg("mean"), arg("var"));
  m.def(place.named("bn_act_forward").c_str(), with_statistics("bn_act", false, forward_pass), arg("rows"),
        arg("channels"), arg("residual_channels"), arg("storage"), arg("activation"), arg("eps"), arg("x"),
        arg("mean"), arg("var"), arg("weight"), arg("bias"), arg("residual"), arg("workspace"), first, second,
        arg("y"));
  m.def(place.named("bn_act_backward").c_str(), backward(backward_pass), arg("rows"), arg("channels"),
        arg("residual_channels"), arg("storage"), arg("activation"), arg("batch_statistics"), arg("eps"),
        arg("grad"), arg("x"), arg("mean"), arg("var"), arg("weight"), arg("bias"), arg("residual"),
        arg("workspace"), first, second, arg("grad_x"), arg("grad_weight"), arg("grad_bias"),
        arg("grad_residual"));
  m.def(place.named("bn_act_sums").c_str(), with_statistics("bn_act_sums", true, sums), arg("rows"),
        arg("channels"), arg("residual_channels"), arg("storage"), arg("activation"), arg("eps"), arg("grad"),
        arg("x"), arg("mean"), arg("var"), arg("weight"), arg("bias"), arg("residual"), arg("workspace"),
        first, second, arg("sums"), arg("grad_weight"), arg("grad_bias"), arg("grad_residual"));
  m.def(place.named("bn_act_grad_x").c_str(), with_statistics("bn_act_grad_x", true, grad_x), arg("rows"),
        arg("channels"), arg("residual_channels"), arg("storage"), arg("activation"), arg("eps"), arg("grad"),
        arg("x"), arg("mean"), arg("var"), arg("weight"), arg("bias"), arg("residual"), arg("dz"),
        arg("sums"), arg("workspace"), first, second, arg("grad_x"));
}

}  // namespace

void bind_bn_act(py::module_& m) {
  const arg rows("rows"), channels("channels"), mean("mean"), var("var"), momentum("momentum");
  const arg residual_channels("residual_channels");
  m.def(
      "bn_act_workspace_cpu",
      [](int64_t rows, int64_t channels, int64_t residual_channels, int threads) {
        return bn_act_workspace_cpu(sizes(rows, channels, residual_channels), threads);
      },
      rows, channels, residual_channels, arg("threads"));
  m.def("update_running_cpu", native_at_once("update_running", &update_running_cpu), rows, channels, mean,
        var, momentum, arg("running_mean"), arg("running_var"));
  bind_passes(m, cpu, &batch_statistics_cpu, &bn_act_forward_cpu, &bn_act_backward_cpu, &bn_act_sums_cpu,
              &bn_act_grad_x_cpu);
#ifdef LASFAST_CUDA
  m.def(
      "bn_act_workspace_cuda",
      [](int64_t rows, int64_t channels, int64_t residual_channels) {
        return bn_act_workspace_cuda(sizes(rows, channels, residual_channels));
      },
      rows, channels, residual_channels);
  m.def(
      "bn_act_counters_cuda",
      [](int64_t rows, int64_t channels) { return bn_act_counters_cuda(sizes(rows, channels, 0)); }, rows,
      channels, "How many counters bn_act_train_cuda makes for bn_act_backward_counted_cuda.");
  m.def("bn_act_train_cuda", counted("bn_act", &bn_act_train_cuda), rows, channels, residual_channels,
        arg("storage"), arg("activation"), arg("eps"), arg("early"), arg("counters"), arg("x"), mean, var,
        arg("weight"), arg("bias"), arg("residual"), arg("workspace"), arg("device"), arg("stream"), arg("y"),
        momentum, arg("running_mean"), arg("running_var"));
  m.def("bn_act_backward_counted_cuda", counted("bn_act_backward", &bn_act_backward_cuda), rows, channels,
        residual_channels, arg("storage"), arg("activation"), arg("eps"), arg("early"), arg("counters"),
        arg("grad"), arg("x"), mean, var, arg("weight"), arg("bias"), arg("residual"), arg("workspace"),
        arg("device"), arg("stream"), arg("grad_x"), arg("grad_weight"), arg("grad_bias"),
        arg("grad_residual"));
  m.def("update_running_cuda", native_at_once("update_running", &update_running_cuda), rows, channels, mean,
        var, momentum, arg("device"), arg("stream"), arg("running_mean"), arg("running_var"));
  bind_passes(m, cuda, &batch_statistics_cuda, &bn_act_forward_cuda, &bn_act_backward_cuda, &bn_act_sums_cuda,
              &bn_act_grad_x_cuda);
#endif
}

}  // namespace lasfast
