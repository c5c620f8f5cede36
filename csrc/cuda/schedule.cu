// The entry points of a schedule on CUDA: they check, then queue the launches of a plan one after another.
#include <algorithm>
#include <cstdint>

#include "entry.cuh"
#include "lasfast/device.h"
#include "lasfast/round.h"
#include "lasfast/schedule.h"
#include "schedule_kernels.cuh"
#include "schedule_plan.h"

namespace lasfast {
namespace {

bool misaligned(const void* address, uintptr_t alignment) {
  return !address || reinterpret_cast<uintptr_t>(address) % alignment != 0;
}

// Checks what passes by levels and resident ones have in common.
Status check_common(const LaunchPlan& plan, const CudaPass& pass) {
  if (!pass.device_plan || !pass.images) return invalid("the device's plan or the images are missing");
  if (plan.leaves && (!pass.logits || pass.logit_images < pass.count))
    return invalid("the logits are missing or have too few images");
  return {};
}

Status check_pass(const ScheduleTables& t, const LaunchPlan& plan, const CudaPass& pass) {
  if (plan.mark != plan_mark || plan.resident_bytes)
    return invalid("the plan is none, of another build or for another purpose");
  if (pass.count < 1 || pass.count > plan.images)
    return invalid("the number of images is not between 1 and the plan's");
  if (pass.first_level < 0 || pass.last_level >= plan.levels || pass.first_level > pass.last_level)
    return invalid("the levels are not among the plan's");
  for (int64_t i = 0; i < t.operation_count; ++i) {
    const Operation& op = t.operations[i];
    if (static_cast<Kind>(op.kind) == Kind::opaque && op.level >= pass.first_level &&
        op.level <= pass.last_level)
      return invalid("an opaque operation is run by the caller");
  }
  if (misaligned(pass.arena, 64) || (plan.scratch_bytes && misaligned(pass.scratch, 64)))
    return invalid("arena or scratch is missing or not aligned");
  if (plan.maps && misaligned(pass.maps, alignof(device::TensorMap)))
    return invalid("the tensor maps are missing or not aligned");
  return check_common(plan, pass);
}

// The arguments for all problems of the plan.
PassArgs arguments(const ScheduleTables& t, const LaunchPlan& plan, const CudaPass& pass) {
  const auto on_device = [&](const void* in_plan) {
    return static_cast<char*>(pass.device_plan) +
           (static_cast<const char*>(in_plan) - static_cast<const char*>(pass.plan));
  };
  return {reinterpret_cast<const Problem*>(on_device(plan.first_problem())),
          plan.problems,
          pass.count,
          pass.images,
          t.pixels,
          pass.arena,
          pass.logits,
          pass.logit_images,
          static_cast<const char*>(t.weights),
          t.biases,
          t.gamma,
          t.beta,
          t.scale,
          t.shift,
          t.mean,
          t.variance,
          static_cast<float*>(pass.scratch),
          reinterpret_cast<uint32_t*>(on_device(plan.first_counter())),
          0,
          nullptr,
          false};
}

int run(const Launch& launch, const LaunchPlan& plan, const PassArgs& args, device::Stream stream) {
  if (is_conv(launch.work)) return launch_conv(launch, plan.bfloat16, plan.tf32, args, stream);
  return launch_planes(launch, plan.bfloat16, args, stream);
}

}  // namespace

int64_t schedule_plan_bytes_cuda(const ScheduleTables& tables, Dtype storage, int64_t images,
                                 Purpose purpose) {
  if (!check_plan(tables, storage, images, purpose).ok()) return 0;
  return make_plan(tables, storage, false, images, purpose, nullptr);
}

Status schedule_plan_cuda(const ScheduleTables& tables, Dtype storage, bool tf32, int64_t images,
                          Purpose purpose, void* plan) {
  if (const Status status = check_plan(tables, storage, images, purpose); !status.ok()) return status;
  if (misaligned(plan, 8)) return invalid("the plan is missing or not aligned");
  make_plan(tables, storage, tf32, images, purpose, plan);
  return {};
}

CudaNeeds schedule_needs_cuda(const void* plan) {
  const auto& header = *static_cast<const LaunchPlan*>(plan);
  return {header.arena_bytes, header.scratch_bytes, header.levels, header.resident_bytes,
          header.maps * int64_t{sizeof(device::TensorMap)}};
}

Status schedule_maps_cuda(const ScheduleTables& t, const void* plan, const void* arena, int device,
                          void* maps) {
  const auto& header = *static_cast<const LaunchPlan*>(plan);
  if (misaligned(plan, 8) || header.mark != plan_mark)
    return invalid("the plan is none, or of another build");
  if (misaligned(arena, 64) || misaligned(maps, alignof(device::TensorMap)))
    return invalid("the arena or the place of the maps is missing or not aligned");
  return on_device(device, nullptr, [&](device::Stream) {
    return make_maps(header, arena, t.weights, static_cast<device::TensorMap*>(maps));
  });
}

bool schedule_has_warpgroups_cuda(int device) {
  const device::Use use(device);
  return use.error() == 0 && has_warpgroups();
}

bool schedule_has_tensor_maps_cuda(int device) {
  const device::Use use(device);
  return use.error() == 0 && has_tensor_maps();
}

Status schedule_run_cuda(const ScheduleTables& t, const CudaPass& pass) {
  if (misaligned(pass.plan, 8)) return invalid("the plan is missing or not aligned");
  const LaunchPlan& plan = *static_cast<const LaunchPlan*>(pass.plan);
  if (const Status status = check_pass(t, plan, pass); !status.ok()) return status;
  PassArgs all = arguments(t, plan, pass);
  return on_device(pass.device, pass.stream, [&](device::Stream stream) {
    const bool early = may_launch_early();
    for (int64_t i = 0; i < plan.launches; ++i) {
      const Launch& launch = plan.first_launch()[i];
      if (launch.level < pass.first_level || launch.level > pass.last_level) continue;
      PassArgs args = all;
      args.problems += launch.first_problem;
      args.problem_count = launch.problems;
      if (launch.first_map >= 0)
        args.maps = static_cast<const device::TensorMap*>(pass.maps) + launch.first_map;
      if (const int error = run(launch, plan, args, stream); error != 0) return error;
      all.early = early;  // not the first, which follows what others have queued: copies, or their kernels
    }
    return 0;
  });
}

Status schedule_run_resident_cuda(const ScheduleTables& t, const CudaPass& pass) {
  if (misaligned(pass.plan, 8)) return invalid("the plan is missing or not aligned");
  const LaunchPlan& plan = *static_cast<const LaunchPlan*>(pass.plan);
  if (plan.mark != plan_mark || !plan.resident_bytes)
    return invalid("the plan is none, of another build or for another purpose");
  if (pass.count < 1 || pass.count > INT32_MAX) return invalid("the number of images is out of range");
  if (misaligned(pass.device_plan, 16)) return invalid("the device's plan is missing or not aligned");
  if (const Status status = check_common(plan, pass); !status.ok()) return status;
  CudaLimits limits{};
  if (const int error = cuda_limits(pass.device, &limits); error != 0)
    return {Code::device_error, error, "the device cannot be used"};
  if (plan.resident_bytes > limits.block_shared_bytes)
    return unsupported("the plan's images do not fit into a multiprocessor's memory; plan for fewer");
  // As many blocks as can run at once; each goes on with other images until none are left.
  const int64_t side_by_side =
      std::max<int64_t>(1, limits.shared_bytes / (plan.resident_bytes + limits.reserved_bytes));
  const int64_t blocks = std::min(divide_up(pass.count, plan.images),
                                  limits.multiprocessors * std::min(side_by_side, resident_blocks));
  return on_device(pass.device, pass.stream, [&](device::Stream stream) {
    return launch_resident(plan, arguments(t, plan, pass), blocks, stream);
  });
}

}  // namespace lasfast
