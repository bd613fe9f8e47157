#include "sim/policies.h"

#include "sim/rank_scheduler.h"
#include "sim/schedulers/sglang.h"
#include "sim/schedulers/tensorrt_llm.h"
#include "sim/schedulers/tensorrt_llm_ranks.h"
#include "sim/schedulers/vllm_v1.h"
#include "sim/sglang_balancer.h"
#include "sim/sglang_ranks.h"
#include "sim/vllm_balancer.h"
#include "sim/vllm_ranks.h"

namespace orrery {

std::unique_ptr<Scheduler> make_vllm_v1(const SchedulerConfig& config) {
  return std::make_unique<VllmV1Scheduler>(config);
}

std::unique_ptr<Scheduler> make_sglang(const SchedulerConfig& config) {
  return std::make_unique<SglangScheduler>(sglang_config(config));
}

std::unique_ptr<Scheduler> make_tensorrt_llm(const SchedulerConfig& config) {
  return std::make_unique<TensorRtLlmScheduler>(config);
}

namespace {

// SGLang's; `auto` is round_robin, or follow_bootstrap_room on a prefill server (handle_load_balance_method).
std::unique_ptr<RankBalancer> make_balancer(const SchedulerConfig& config,
                                            const std::vector<std::unique_ptr<Scheduler>>& ranks) {
  const NamedOptions& o = config.options;
  const std::string method = o.has("load_balance_method") ? o.text("load_balance_method") : "auto";
  const bool prefill = config.sends_kv && !config.pulls_kv;
  if (method == "follow_bootstrap_room" || (method == "auto" && prefill))
    return make_rank_by_room(ranks.size(), config.seed);
  if (method == "auto" || method == "round_robin") return make_rank_round_robin(ranks.size());
  std::vector<const SglangScheduler*> schedulers;
  for (const auto& rank : ranks) schedulers.push_back(static_cast<const SglangScheduler*>(rank.get()));
  SglangBalancer::Rules rules{.by_tokens = method == "total_tokens"};
  if (o.has("load_snapshot_publish_interval"))
    rules.publish_interval = o.integer("load_snapshot_publish_interval");
  return std::make_unique<SglangBalancer>(
      ranks.size(), rules, [schedulers](std::size_t rank) { return schedulers[rank]->load(); });
}

}  // namespace

std::unique_ptr<Scheduler> make_instance_scheduler(const SchedulerPolicy& policy,
                                                   const SchedulerConfig& config, std::int32_t ranks) {
  if (ranks == 1) return policy.make(config);
  if (policy.make == make_tensorrt_llm) return std::make_unique<TensorRtLlmRanks>(config, ranks);
  if (policy.make == make_sglang && SglangRanks::needed(config)) {
    auto own = SglangRanks::make_ranks(config, ranks);
    auto balancer = make_balancer(config, own);
    return std::make_unique<SglangRanks>(config, std::move(own), std::move(balancer));
  }
  std::vector<std::unique_ptr<Scheduler>> schedulers;
  for (std::int32_t r = 0; r < ranks; ++r) schedulers.push_back(policy.make(config));
  if (policy.make == make_vllm_v1) {
    auto front_end =
        std::make_unique<VllmBalancer>(schedulers.size(), static_cast<std::size_t>(config.front_ends));
    const RankRules rules{.idle_ranks_are_bound = true};
    if (const std::int64_t interval = VllmRanks::interval_of(config); interval > 1)
      return std::make_unique<VllmRanks>(interval, std::move(schedulers), std::move(front_end), rules);
    return std::make_unique<RankScheduler>(std::move(schedulers), std::move(front_end), rules);
  }
  auto balancer = make_balancer(config, schedulers);
  return std::make_unique<RankScheduler>(std::move(schedulers), std::move(balancer));
}

const RouterPolicy* find_router(std::string_view name) {
  for (const RouterPolicy& policy : router_policies) {
    if (name == policy.name) return &policy;
  }
  return nullptr;
}

const SchedulerPolicy* find_scheduler(std::string_view name) {
  for (const SchedulerPolicy& policy : scheduler_policies) {
    if (name == policy.name) return &policy;
  }
  return nullptr;
}

}  // namespace orrery
