#include "sim/costed/idle_waves.h"

#include <algorithm>

namespace orrery {

namespace {
constexpr std::int64_t agreement = 32;  // `_has_global_unfinished_reqs`: "every 32 steps"
}

// A dummy batch is priced as a decode of one sequence on every rank: logits and sampling, which it leaves
// out, are in it.
IdleWaves::IdleWaves(const StepPricer& pricer, bool waits_for_inputs, std::size_t instances)
    : ahead_(waits_for_inputs ? 2 : 0), waves_(instances) {
  StepShape one;
  one.decode_sequences = 1;
  const std::vector<StepShape> ranks(static_cast<std::size_t>(pricer.ranks()), one);
  const StepTiming t = pricer.price_joint(ranks);
  issue_ = SimDuration(t.schedule + t.prepare + t.launch);
  period_ = std::max(issue_, SimDuration(t.busy + t.step_gap));
  if (waits_for_inputs) issue_ = period_;
}

SimTime IdleWaves::busy_until(std::size_t instance, std::int64_t step, SimTime free, SimTime now) {
  Wave& wave = waves_[instance];
  const std::int64_t passes = step - wave.first + wave.dummies;
  if (passes == 0) return free;  // the first of all
  const std::int64_t most = agreement - passes % agreement;
  const std::int64_t issued = std::min(most, (now - free).ns() / issue_.ns() + 1 + ahead_);
  batches_ += issued;
  if (issued == most) {
    wave = {.first = step, .dummies = 0};
  } else {
    wave.dummies += issued;
  }
  return free + period_ * issued;
}

}  // namespace orrery
