// Checks whether a schedule can be run: everything that kernels then take for granted.
#pragma once

#include <functional>

#include "lasfast/schedule.h"

namespace lasfast {

// Checks an operation with a weight on its own, without its schedule.
Status check_weighted(const Operation& op, const Value& input);

// Checks on the CPU that an operation is one that Winograd's algorithm computes, where its tile asks for
// that.
Status check_winograd(const Operation& op, Dtype storage, Isa isa);

// An arena: how many images it has room for, and how many bytes (< 0: not known yet).
struct Room {
  int64_t capacity, bytes;
};

// Says how the arenas of a device are laid out.
struct ScheduleLayout {
  int64_t (*elements)(const Value&);  // of a value in its arena, for an image
  std::function<int64_t(const Operation&, const Value&, Dtype)> packed_bytes;
  bool in_place = false;  // whether an output may lie where a value lies whose elements are read only once
};

// Checks all tables.
Status check_tables(const ScheduleTables& tables, Dtype storage, Room own, Room shared, bool calibration,
                    const ScheduleLayout& layout);

// Checks all tables, and whether the CPU can run them.
Status check_schedule(const ScheduleTables& tables, Dtype storage, Isa isa, int threads, Room own,
                      Room shared, bool calibration);

// Checks that a range of operations can be run without the caller.
Status check_range(const ScheduleTables& tables, Range range);

}  // namespace lasfast
