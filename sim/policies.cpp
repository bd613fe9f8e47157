#include "sim/policies.h"

#include "sim/schedulers/sglang.h"
#include "sim/schedulers/tensorrt_llm.h"
#include "sim/schedulers/vllm_v1.h"

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
