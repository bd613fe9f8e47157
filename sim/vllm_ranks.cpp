#include "sim/vllm_ranks.h"

#include "sim/schedulers/vllm_v1.h"

namespace orrery {

std::int64_t VllmRanks::interval_of(const SchedulerConfig& config) {
  constexpr const char* name = "prefill_schedule_interval";
  return config.options.has(name) ? config.options.integer(name) : 1;
}

const StepPlan& VllmRanks::schedule() {
  const bool throttled = (next_step_ - wave_began_) % interval_ != 0;
  for (const auto& rank : ranks_) static_cast<VllmV1Scheduler&>(*rank).throttle_prefills(throttled);
  return RankScheduler::schedule();
}

}  // namespace orrery
