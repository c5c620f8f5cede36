// The entry points of depthwise convolutions on NHWC values: what is checked, and which kernels a pass is
// made of.
#include <initializer_list>

#include "depthwise_nhwc.cuh"
#include "lasfast/schedule.h"

namespace lasfast {

Status depthwise_nhwc_supported_cuda(const DepthwiseNhwcParams& p) {
  if (const Status status = validate(p); !status.ok()) return status;
  if (p.kernel > schedule_max_kernel) return unsupported("the kernel is too large");
  for (const int64_t size :
       {p.batch, p.channels, p.height, p.width, p.out_height, p.out_width, p.stride, p.padding})
    if (size > max_index) return unsupported("a size is 2^31 or more");
  for (const int64_t positions : {p.height * p.width, p.out_height * p.out_width})
    if (positions > max_index || p.batch * positions > max_index)
      return unsupported("more than 2^31 positions in one call");
  if (p.height + 2 * p.padding > max_index || p.width + 2 * p.padding > max_index)
    return unsupported("the padding is too large");
  return {};
}

int64_t depthwise_nhwc_workspace_cuda(const DepthwiseNhwcParams& p, Pass pass) {
  if (!depthwise_nhwc_supported_cuda(p).ok() || p.channels == 0) return 0;
  if (pass == Pass::forward) return DepthwiseTiling(p, pass).partial_bytes(p) + workspace_slack;
  return pass == Pass::grad_weight ? DepthwiseGradWeightTiling(p).partial_bytes(p) + workspace_slack : 0;
}

Status depthwise_nhwc_forward_cuda(const DepthwiseNhwcParams& p, const void* input, const void* weight,
                                   void* workspace, int device, void* stream, void* output, float* mean,
                                   float* variance) {
  if (const Status status = depthwise_nhwc_supported_cuda(p); !status.ok()) return status;
  const int64_t positions = p.batch * p.out_height * p.out_width;
  if (p.channels == 0 || (positions == 0 && !mean)) return {};
  auto* const partial = mean ? reinterpret_cast<float*>(align_to_16(workspace)) : nullptr;
  return on_device(device, stream, [&](device::Stream queue) {
    if (positions > 0) {
      const int error = launch_depthwise(p, Pass::forward, input, weight, queue, output, partial);
      if (error != 0 || !mean) return error;
    }
    const DepthwiseTiling tiling(p, Pass::forward);
    return launch_statistics(
        {partial, tiling.row_tiles, tiling.rows, positions, static_cast<int>(p.channels), mean, variance},
        queue, positions > 0 && may_launch_early());
  });
}

Status depthwise_nhwc_grad_input_cuda(const DepthwiseNhwcParams& p, const void* grad_output,
                                      const void* weight, void*, int device, void* stream, void* grad_input) {
  if (const Status status = depthwise_nhwc_supported_cuda(p); !status.ok()) return status;
  if (p.batch * p.height * p.width == 0 || p.channels == 0) return {};
  return on_device(device, stream, [&](device::Stream queue) {
    return launch_depthwise(p, Pass::grad_input, grad_output, weight, queue, grad_input, nullptr);
  });
}

Status depthwise_nhwc_grad_weight_cuda(const DepthwiseNhwcParams& p, const void* grad_output,
                                       const void* input, void* workspace, int device, void* stream,
                                       float* grad_weight) {
  if (const Status status = depthwise_nhwc_supported_cuda(p); !status.ok()) return status;
  if (p.channels == 0) return {};
  const DepthwiseGradWeightTiling tiling(p);
  auto* const partial = reinterpret_cast<float*>(align_to_16(workspace));
  const MergeArgs merge{partial,
                        static_cast<int>(tiling.parts),
                        static_cast<int>(p.channels),
                        1,
                        static_cast<int>(p.kernel),
                        {p.weight_stride[0], 0, p.weight_stride[1], p.weight_stride[2]},
                        grad_weight};
  return on_device(device, stream, [&](device::Stream queue) {
    const int error = launch_depthwise_grad_weight(p, tiling, grad_output, input, queue, partial);
    return error != 0 ? error : launch_merge_sums(merge, queue, may_launch_early());
  });
}

Status depthwise_nhwc_backward_cuda(const DepthwiseNhwcParams& p, const void* grad_output, const void* input,
                                    const void* weight, const int64_t* grad_weight_stride, void* workspace,
                                    int device, void* stream, void* grad_input, float* grad_weight) {
  const Status status =
      depthwise_nhwc_grad_input_cuda(p, grad_output, weight, nullptr, device, stream, grad_input);
  if (!status.ok()) return status;
  DepthwiseNhwcParams of_weight = p;
  for (int i = 0; i < 3; ++i) of_weight.weight_stride[i] = grad_weight_stride[i];
  return depthwise_nhwc_grad_weight_cuda(of_weight, grad_output, input, workspace, device, stream,
                                         grad_weight);
}

}  // namespace lasfast
