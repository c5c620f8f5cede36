// Whether a schedule can be run: everything that kernels then take for granted.
#pragma once

#include "lasfast/schedule.h"

namespace lasfast {

// An operation with a weight, on its own.
Status check_weighted(const Operation& op, const Value& input);

// All tables, for arenas that hold `capacity` images. arena_bytes < 0: not known yet.
Status check_schedule(const ScheduleTables& tables, Storage storage, Isa isa, int threads, int64_t capacity,
                      int64_t arena_bytes, bool calibration);

}  // namespace lasfast
