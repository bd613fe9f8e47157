// What a run's results say of its engines, added up.
#pragma once

#include "sim/results.h"
#include "sim/scheduler.h"

namespace orrery {

void add_counters(const Scheduler& s, PoolResult& pool, RunResult& r);

}  // namespace orrery
