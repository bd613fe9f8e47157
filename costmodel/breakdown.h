// What one step costs, in the columns of interfaces §6, and the pieces that explain() and `orrery cost`
// share.
#pragma once

#include <cstdint>

#include "costmodel/pipeline.h"
#include "costmodel/step_pricer.h"

namespace orrery {

// Time per step, nanoseconds, when a step of this timing repeats for ever with `steps_in_flight` open at
// most.
std::int64_t steady_step_ns(const StepTiming& timing, std::int32_t steps_in_flight, bool launcher_is_core);

// D − B of a step whose predecessor has ended on the device when its launch begins (interfaces §6).
constexpr std::int64_t device_ns_of(const StepTiming& t) {
  const std::int64_t launched = t.launch + t.last_kernel;
  return t.busy > launched ? t.busy : launched;
}

// Factor by which a 90 % interval of a log-normal error reaches up: exp(1.645·deviation).
double interval_factor(double log_deviation);

}  // namespace orrery
