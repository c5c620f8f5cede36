// The functions that queue one launch of a plan, for each file of kernels. They return the runtime's error
// number, 0 for none.
#pragma once

#include "device.cuh"
#include "schedule_problem.h"

namespace lasfast {

int launch_conv(const Launch& launch, bool bfloat16, bool tf32, const PassArgs& pass, device::Stream stream);
int launch_mapped_conv(const Launch& launch, const PassArgs& pass, device::Stream stream);
int launch_planes(const Launch& launch, bool bfloat16, const PassArgs& pass, device::Stream stream);
int launch_resident(const LaunchPlan& plan, const PassArgs& pass, int64_t blocks, device::Stream stream);

// Says whether this build has code for warpgroups that the current device runs, and for those that multiply
// what is copied by tensor maps.
bool has_warpgroups();
bool has_tensor_maps();

// The bytes of shared memory that a block needs.
int64_t conv_shared_bytes(Work work, int64_t input_pitch);
int64_t plane_shared_bytes(Work work, const Problem& problem);
int64_t resident_stage_bytes(const Problem& problem);
int64_t resident_bytes(int64_t arena_bytes, int64_t stage_bytes);

}  // namespace lasfast
