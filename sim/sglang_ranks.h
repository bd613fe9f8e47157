// SGLang's attention ranks where what one of them does to prompts depends on the others: the prefill delayer,
// whose answer they negotiate in every pass (sim/sglang_delayer.h), and prefill_decode_interval, which
// prompts of any rank arm on all (`_arm_prefill_decode_interval`: is_extend_in_batch).
//
// Passes are the ranks' together. One in which nobody runs, because the only prompts are put off, is over
// when the ranks have told one another so (`prepare_mlp_sync_batch`), and the next one begins: a step of
// nobody.
#pragma once

#include "sim/rank_scheduler.h"
#include "sim/schedulers/sglang.h"

namespace orrery {

class SglangRanks final : public RankScheduler {
 public:
  static bool needed(const SchedulerConfig& config);
  static std::vector<std::unique_ptr<Scheduler>> make_ranks(const SchedulerConfig& config,
                                                            std::int32_t ranks);
  SglangRanks(const SchedulerConfig& config, std::vector<std::unique_ptr<Scheduler>> ranks,
              std::unique_ptr<RankBalancer> balancer);

  void at(SimTime now) override {
    now_ = now;
    RankScheduler::at(now);
  }
  const StepPlan& schedule() override;

 private:
  SglangScheduler& rank(std::size_t r) { return static_cast<SglangScheduler&>(*ranks_[r]); }

  SglangConfig config_;  // of each rank
  PrefillDelayer delayer_;
  std::vector<PrefillVote> votes_;
  SimTime now_;
};

}  // namespace orrery
