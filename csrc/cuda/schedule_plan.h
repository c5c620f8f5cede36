// Makes a plan of a schedule's tables: which kernel computes what, in which tiles.
#pragma once

#include "lasfast/schedule.h"
#include "schedule_problem.h"

namespace lasfast {

// The shape of a weight as the kernels read it: a row of `depth` elements for each output channel, in the
// order of k_order.cuh (input channels up to their padding) with zeros at the end; or, of a depthwise
// convolution, a row of fp32 channels for each tap.
struct PackedShape {
  int32_t kernel_height, kernel_width, channels, pitch, depth;
  int64_t bytes;

  PackedShape(const Operation& op, const Value& input, Dtype storage);
};

bool is_depthwise_cuda(const Operation& op);

// Checks everything that kernels and launches take for granted.
Status check_plan(const ScheduleTables& tables, Dtype storage, int64_t images, Purpose purpose);

// Writes a plan of tables that passed check_plan; returns its bytes. plan may be null.
int64_t make_plan(const ScheduleTables& tables, Dtype storage, bool tf32, int64_t images, Purpose purpose,
                  void* plan);

// Writes the tensor maps of a plan; returns the runtime's or the driver's error number, 0 for none.
int make_maps(const LaunchPlan& plan, const void* arena, const void* weights, device::TensorMap* maps);

}  // namespace lasfast
