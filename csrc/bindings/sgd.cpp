// SGD for Python: the table of parts is an array that Python owns, everything else arrives as numbers.
#include "lasfast/sgd.h"

#include "bindings.h"

namespace lasfast {
namespace {

namespace py = pybind11;
using py::arg;

int64_t number_chunks(Pointer<SgdPart> parts, int64_t count) {
  int64_t chunks = 0;
  raise(sgd_chunks(parts, count, &chunks), "sgd");
  return chunks;
}

template <class... P>
auto update(Status (*run)(const SgdParams&, const SgdPart*, P...)) {
  return
      [=](Pointer<const SgdPart> parts, int64_t count, int64_t chunks, float learning_rate, float momentum,
          float weight_decay, bool nesterov, float gradient_scale, float clip_norm, Received<P>... values) {
        const SgdParams p{count,        chunks,   learning_rate,  momentum,
                          weight_decay, nesterov, gradient_scale, clip_norm};
        run_and_raise("sgd", [&] { return run(p, parts, values...); });
      };
}

template <class Run, class... Where>
void bind_update(py::module_& m, const char* name, Run run, const Where&... where) {
  m.def(name, update(run), arg("parts"), arg("count"), arg("chunks"), arg("learning_rate"), arg("momentum"),
        arg("weight_decay"), arg("nesterov"), arg("gradient_scale"), arg("clip_norm"), arg("workspace"),
        where...);
}

}  // namespace

void bind_sgd(py::module_& m) {
  m.def("sgd_chunks", &number_chunks, arg("parts"), arg("count"),
        "Number the chunks of `parts`, int64 [count, 10] of SgdPart; return how many there are.");
  m.def("sgd_workspace", &sgd_workspace, arg("chunks"));
  bind_update(m, "sgd_cpu", &sgd_cpu, arg("threads"));
#ifdef LASFAST_CUDA
  bind_update(m, "sgd_cuda", &sgd_cuda, arg("device"), arg("stream"));
#endif
}

}  // namespace lasfast
