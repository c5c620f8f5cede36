// Whether a schedule can be run: everything that kernels then take for granted.
#pragma once

#include <functional>

#include "lasfast/schedule.h"

namespace lasfast {

// An operation with a weight, on its own.
Status check_weighted(const Operation& op, const Value& input);

// What differs between devices.
struct ScheduleLayout {
  int64_t (*elements)(const Value&);  // of a value in the arena, for an image
  std::function<int64_t(const Operation&, const Value&, Storage)> packed_bytes;
};

// All tables, for arenas that hold `capacity` images. arena_bytes < 0: not known yet.
Status check_tables(const ScheduleTables& tables, Storage storage, int64_t capacity, int64_t arena_bytes,
                    bool calibration, const ScheduleLayout& layout);

// The same for the CPU.
Status check_schedule(const ScheduleTables& tables, Storage storage, Isa isa, int threads, int64_t capacity,
                      int64_t arena_bytes, bool calibration);

}  // namespace lasfast
