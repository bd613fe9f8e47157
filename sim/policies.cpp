#include "sim/policies.h"

#include "sim/rank_scheduler.h"
#include "sim/schedulers/sglang.h"
#include "sim/schedulers/tensorrt_llm.h"
#include "sim/schedulers/vllm_v1.h"
#include "sim/vllm_balancer.h"

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

std::unique_ptr<Scheduler> make_instance_scheduler(const SchedulerPolicy& policy,
                                                   const SchedulerConfig& config, std::int32_t ranks) {
  if (ranks == 1) return policy.make(config);
  std::vector<std::unique_ptr<Scheduler>> schedulers;
  for (std::int32_t r = 0; r < ranks; ++r) schedulers.push_back(policy.make(config));
  if (policy.make == make_vllm_v1) {
    auto front_end =
        std::make_unique<VllmBalancer>(schedulers.size(), static_cast<std::size_t>(config.front_ends));
    return std::make_unique<RankScheduler>(std::move(schedulers), std::move(front_end),
                                           RankRules{.idle_ranks_are_bound = true});
  }
  auto balancer = make_rank_round_robin(schedulers.size());
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
