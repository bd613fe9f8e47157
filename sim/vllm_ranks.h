// vLLM's data-parallel ranks with prefill_schedule_interval above 1
// (`DPEngineCoreProc._should_throttle_prefills`, v1/engine/core.py of 0.24): prompts of all ranks wait for
// every N-th step, so that they meet in one instead of making many steps long. Steps are counted from the
// beginning of a wave, whose first one is never throttled.
//
// A wave ends here when no rank has a request any more; the engine's dummy batches go on to its next finish
// test (every 32 steps), and a request that comes while they do finds the count where they left it.
#pragma once

#include "sim/rank_scheduler.h"

namespace orrery {

class VllmRanks final : public RankScheduler {
 public:
  static std::int64_t interval_of(const SchedulerConfig& config);
  VllmRanks(std::int64_t interval, std::vector<std::unique_ptr<Scheduler>> ranks,
            std::unique_ptr<RankBalancer> balancer, RankRules rules)
      : RankScheduler(std::move(ranks), std::move(balancer), rules), interval_(interval) {}

  const StepPlan& schedule() override;
  void on_idle() override {
    wave_began_ = next_step_;
    RankScheduler::on_idle();
  }

 private:
  std::int64_t interval_, wave_began_ = 0;
};

}  // namespace orrery
