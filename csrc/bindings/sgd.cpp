// SGD for Python: the table of parts is an array that Python owns, everything else arrives as numbers.
#include "lasfast/sgd.h"

#include "bindings.h"

namespace py = pybind11;
using namespace lasfast;

namespace {

int64_t plan(Address parts, int64_t count) {
  int64_t chunks = 0;
  raise(sgd_plan(at<SgdPart>(parts), count, &chunks), "sgd");
  return chunks;
}

void run_cpu(Address parts, int64_t count, int64_t chunks, float learning_rate, float momentum,
             float weight_decay, bool nesterov, float gradient_scale, float clip_norm, Address workspace,
             int threads) {
  const SgdParams p{count,        chunks,   learning_rate,  momentum,
                    weight_decay, nesterov, gradient_scale, clip_norm};
  run_and_raise("sgd", [&] { return sgd_cpu(p, at<const SgdPart>(parts), at<void>(workspace), threads); });
}

#ifdef LASFAST_CUDA
void run_cuda(Address parts, int64_t count, int64_t chunks, float learning_rate, float momentum,
              float weight_decay, bool nesterov, float gradient_scale, float clip_norm, Address workspace,
              int device, Address stream) {
  const SgdParams p{count,        chunks,   learning_rate,  momentum,
                    weight_decay, nesterov, gradient_scale, clip_norm};
  run_and_raise("sgd", [&] {
    return sgd_cuda(p, at<const SgdPart>(parts), at<void>(workspace), device, at<void>(stream));
  });
}
#endif

}  // namespace

void bind_sgd(py::module_& m) {
  m.def("sgd_plan", &plan);
  m.def("sgd_workspace", &sgd_workspace);
  m.def("sgd_cpu", &run_cpu);
#ifdef LASFAST_CUDA
  m.def("sgd_cuda", &run_cuda);
#endif
}
