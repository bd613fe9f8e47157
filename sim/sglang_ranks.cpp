#include "sim/sglang_ranks.h"

#include <utility>

namespace orrery {

bool SglangRanks::needed(const SchedulerConfig& config) {
  const SglangConfig c = sglang_config(config);
  if (c.role == SglangRole::prefill) return c.delays.on;  // whose loop has no interval
  return c.role == SglangRole::whole && (c.delays.on || c.prefill_decode_interval > 0);
}

std::vector<std::unique_ptr<Scheduler>> SglangRanks::make_ranks(const SchedulerConfig& config,
                                                                std::int32_t ranks) {
  SglangConfig c = sglang_config(config);
  c.negotiates = true;
  std::vector<std::unique_ptr<Scheduler>> made;
  for (std::int32_t r = 0; r < ranks; ++r) made.push_back(std::make_unique<SglangScheduler>(c));
  return made;
}

SglangRanks::SglangRanks(const SchedulerConfig& config, std::vector<std::unique_ptr<Scheduler>> ranks,
                         std::unique_ptr<RankBalancer> balancer)
    : RankScheduler(std::move(ranks), std::move(balancer)), config_(sglang_config(config)) {}

const StepPlan& SglangRanks::schedule() {
  votes_.assign(ranks_.size(), {});
  for (std::size_t r = 0; r < ranks_.size(); ++r) {
    if (rank(r).has_work())
      votes_[r] = rank(r).open_pass();
    else
      rank(r).pass_idle();
  }
  const bool allowed =
      !config_.delays.on || delayer_.allows(config_.delays, votes_,
                                            {.running_requests = config_.max_running_requests,
                                             .prefill_requests = config_.prefill_max_requests},
                                            now_);
  for (std::size_t r = 0; r < ranks_.size(); ++r) rank(r).answer(allowed);
  RankScheduler::schedule();
  if (!prefill_.empty()) {
    for (std::size_t r = 0; r < ranks_.size(); ++r) rank(r).prompts_ran();
  }
  bool put_off = false;
  for (std::size_t r = 0; r < ranks_.size(); ++r) put_off |= rank(r).has_work() && rank(r).put_off();
  if (plan_.tokens() == 0 && put_off && nothing_runs()) run_nobody();
  return plan_;
}

}  // namespace orrery
