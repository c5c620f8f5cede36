// Whether a schedule can be run: everything that kernels then take for granted.
#pragma once

#include <functional>

#include "lasfast/schedule.h"

namespace lasfast {

// An operation with a weight, on its own.
Status check_weighted(const Operation& op, const Value& input);

// Where values lie: how many images there is room for, and its bytes (< 0: not known yet).
struct Room {
  int64_t capacity, bytes;
};

// What differs between devices.
struct ScheduleLayout {
  int64_t (*elements)(const Value&);  // of a value in its arena, for an image
  std::function<int64_t(const Operation&, const Value&, Dtype)> packed_bytes;
  bool in_place = false;  // whether an output may lie where a value lies whose elements are read only once
};

// All tables.
Status check_tables(const ScheduleTables& tables, Dtype storage, Room own, Room shared, bool calibration,
                    const ScheduleLayout& layout);

// The same for the CPU.
Status check_schedule(const ScheduleTables& tables, Dtype storage, Isa isa, int threads, Room own,
                      Room shared, bool calibration);

// Operations that can be run without the caller.
Status check_range(const ScheduleTables& tables, Range range);

}  // namespace lasfast
