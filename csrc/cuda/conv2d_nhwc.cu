// The entry points of convolutions on NHWC values: what is checked, and which kernels a pass is made of.
#include <initializer_list>

#include "conv2d_nhwc.cuh"
#include "lasfast/schedule.h"

namespace lasfast {
namespace {

int to_int(int64_t v) { return static_cast<int>(v); }

// Of the statistics of tiles, and of those and of groups of tiles.
int64_t tile_statistics(const Windows& w) {
  return round_to(w.row_tiles() * 2 * w.out_channels * int64_t{sizeof(float)}, 16);
}
int64_t partial_statistics(const Windows& w) {
  return tile_statistics(w) + w.groups() * 2 * w.out_channels * int64_t{sizeof(double)};
}

int64_t packed_bytes(const Conv2dNhwcParams& p, const Windows& w) {
  return counters_at(w, p.storage) + round_to(w.counters() * int64_t{sizeof(uint32_t)}, 16);
}

bool are_packed_alike(const Conv2dNhwcParams& p, const Conv2dNhwcParams& q) {
  return p.weight == q.weight && p.storage == q.storage && p.tf32 == q.tf32;
}

// Forward pass, or gradient of the input.
int run_windows(const Conv2dNhwcParams& p, const Windows& w, const void* input, const void* weight,
                void* workspace, device::Stream stream, void* output, float* mean, float* variance) {
  char* const own = align_to_16(workspace);
  char* const partial = own + packed_bytes(p, w);
  if (w.positions == 0)
    return launch_statistics({nullptr, 0, 1, 0, w.out_channels, mean, variance}, stream, false);
  // What a packed weight has behind it is written, too: the counters are zero again afterwards.
  char* const packed = p.packed ? static_cast<char*>(const_cast<void*>(weight)) : own;
  if (!p.packed) {
    const PackArgs pack(p, w, weight, packed);
    if (const int error = launch_pack(&pack, 1, p.weight, p.storage, p.tf32, stream); error != 0)
      return error;
  }
  const WindowsArgs args{w,
                         input,
                         packed,
                         output,
                         reinterpret_cast<uint32_t*>(packed + counters_at(w, p.storage)),
                         mean,
                         variance,
                         reinterpret_cast<float*>(partial),
                         reinterpret_cast<double*>(partial + tile_statistics(w)),
                         0,
                         0,
                         0,
                         false,
                         p.warpgroups,
                         (p.early || !p.packed) && may_launch_early()};
  return launch_windows(args, p.storage, p.tf32, stream);
}

}  // namespace

Windows::Windows(const Conv2dNhwcParams& p, Pass pass)
    : transposed(pass == Pass::grad_input),
      images(to_int(p.batch)),
      in_height(to_int(transposed ? p.out_height : p.height)),
      in_width(to_int(transposed ? p.out_width : p.width)),
      in_channels(to_int(transposed ? p.c_out : p.c_in)),
      out_height(to_int(transposed ? p.height : p.out_height)),
      out_width(to_int(transposed ? p.width : p.out_width)),
      out_channels(to_int(transposed ? p.c_in : p.c_out)),
      kernel(to_int(p.kernel)),
      stride(to_int(p.stride)),
      padding(to_int(p.padding)) {
  const int64_t residues = transposed ? stride : 1;
  const auto least = [&](int64_t size) { return to_int(size < residues ? size : residues); };
  phases_y = least(out_height), phases_x = least(out_width), packed_phases = least(kernel);
  const int64_t taps = divide_up(kernel, residues), step = conv_step_bytes / itemsize(p.storage);
  depth = to_int(divide_up(taps * taps * in_channels, step) * step);
  positions = images * divide_up(out_height, residues) * divide_up(out_width, residues);
}

Status conv2d_nhwc_supported_cuda(const Conv2dNhwcParams& p, Pass pass) {
  if (const Status status = validate(p); !status.ok()) return status;
  if (p.warpgroups) {
    const int64_t in = pass == Pass::grad_input ? p.c_out : p.c_in,
                  out = pass == Pass::grad_input ? p.c_in : p.c_out;
    const bool whole = in % chunk == 0 && (pass != Pass::grad_weight || out % chunk == 0);
    if (p.storage != Dtype::bfloat16 || !whole || out <= 32)
      return unsupported("warpgroups do not multiply these values");
  }
  if (p.packed && pass == Pass::grad_weight) return invalid("the weight's gradient reads no weight");
  if (p.kernel > schedule_max_kernel) return unsupported("the kernel is too large");
  const int64_t largest = p.c_in > p.c_out ? p.c_in : p.c_out;
  for (const int64_t positions : {p.height * p.width, p.out_height * p.out_width})
    if (positions > max_index || p.batch * positions > max_index)
      return unsupported("more than 2^31 positions in one call");
  if (p.kernel * p.kernel * largest > max_index || largest * itemsize(p.storage) > max_index)
    return unsupported("the weight is too large");
  const int64_t wider = p.width > p.out_width ? p.width : p.out_width;
  if (p.kernel * wider * largest > max_index)
    return unsupported("more than 2^31 elements under a window's rows");
  return {};
}

int64_t conv2d_nhwc_workspace_cuda(const Conv2dNhwcParams& p, Pass pass) {
  if (!conv2d_nhwc_supported_cuda(p, pass).ok()) return 0;
  if (pass == Pass::grad_weight) return GradWeightTiling(p).partial_bytes(p) + workspace_slack;
  const Windows w(p, pass);
  return packed_bytes(p, w) + (pass == Pass::forward ? partial_statistics(w) : 0) + workspace_slack;
}

int64_t conv2d_nhwc_packed_bytes_cuda(const Conv2dNhwcParams& p, Pass pass) {
  if (pass == Pass::grad_weight || !conv2d_nhwc_supported_cuda(p, pass).ok()) return 0;
  return packed_bytes(p, Windows(p, pass));
}

Status conv2d_nhwc_pack_cuda(const Conv2dNhwcPacking* packings, int64_t count, int device, void* stream) {
  for (int64_t i = 0; i < count; ++i)
    for (const Pass pass : {Pass::forward, Pass::grad_input})
      if (const Status status = conv2d_nhwc_supported_cuda(packings[i].params, pass); !status.ok())
        return status;
  return on_device(device, stream, [&](device::Stream queue) {
    for (int64_t i = 0; i < count;) {
      const Conv2dNhwcParams& p = packings[i].params;
      PackArgs args[most_packed];
      int passes = 0;
      for (; i < count && passes + 2 <= most_packed && are_packed_alike(packings[i].params, p); ++i) {
        const auto& [params, weight, forward, grad_input] = packings[i];
        args[passes++] = {params, Windows(params, Pass::forward), weight, forward};
        args[passes++] = {params, Windows(params, Pass::grad_input), weight, grad_input};
      }
      if (const int error = launch_pack(args, passes, p.weight, p.storage, p.tf32, queue)) return error;
    }
    return 0;
  });
}

Status conv2d_nhwc_forward_cuda(const Conv2dNhwcParams& p, const void* input, const void* weight,
                                void* workspace, int device, void* stream, void* output, float* mean,
                                float* variance) {
  if (const Status status = conv2d_nhwc_supported_cuda(p, Pass::forward); !status.ok()) return status;
  const Windows w(p, Pass::forward);
  if (p.c_out == 0 || (w.positions == 0 && !mean)) return {};
  return on_device(device, stream, [&](device::Stream queue) {
    return run_windows(p, w, input, weight, workspace, queue, output, mean, variance);
  });
}

Status conv2d_nhwc_grad_input_cuda(const Conv2dNhwcParams& p, const void* grad_output, const void* weight,
                                   void* workspace, int device, void* stream, void* grad_input) {
  if (const Status status = conv2d_nhwc_supported_cuda(p, Pass::grad_input); !status.ok()) return status;
  const Windows w(p, Pass::grad_input);
  if (p.c_in == 0 || w.positions == 0) return {};
  return on_device(device, stream, [&](device::Stream queue) {
    return run_windows(p, w, grad_output, weight, workspace, queue, grad_input, nullptr, nullptr);
  });
}

Status conv2d_nhwc_grad_weight_cuda(const Conv2dNhwcParams& p, const void* grad_output, const void* input,
                                    void* workspace, int device, void* stream, float* grad_weight) {
  if (const Status status = conv2d_nhwc_supported_cuda(p, Pass::grad_weight); !status.ok()) return status;
  if (p.c_in == 0 || p.c_out == 0) return {};
  const GradWeightTiling tiling(p);
  auto* const partial = reinterpret_cast<float*>(align_to_16(workspace));
  MergeArgs merge{partial, to_int(tiling.parts), to_int(p.c_out), to_int(p.c_in), to_int(p.kernel),
                  {},      grad_weight};
  for (int i = 0; i < 4; ++i) merge.stride[i] = p.weight_stride[i];
  return on_device(device, stream, [&](device::Stream queue) {
    if (const int error = launch_grad_weight(p, tiling, grad_output, input, partial, queue); error != 0)
      return error;
    return launch_merge_sums(merge, queue, may_launch_early());
  });
}

}  // namespace lasfast
