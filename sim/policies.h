// The tables of schedulers and routers: adding one is a new file and one line here.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "sim/router.h"
#include "sim/scheduler.h"

namespace orrery {

std::unique_ptr<Router> make_round_robin(const RouterConfig& config = {});
std::unique_ptr<Router> make_least_loaded(const RouterConfig& config = {});
std::unique_ptr<Router> make_prefix_aware(const RouterConfig& config = {});
std::unique_ptr<Router> make_kv_aware(const RouterConfig& config = {});
std::unique_ptr<Router> make_slots(const RouterConfig& config = {});
std::unique_ptr<Scheduler> make_vllm_v1(const SchedulerConfig& config);
std::unique_ptr<Scheduler> make_sglang(const SchedulerConfig& config);
std::unique_ptr<Scheduler> make_tensorrt_llm(const SchedulerConfig& config);

struct SchedulerPolicy {
  const char* name;
  const char* description;
  std::unique_ptr<Scheduler> (*make)(const SchedulerConfig& config);
};

inline constexpr std::array router_policies = {
    RouterPolicy{"round-robin", "each instance in turn", make_round_robin},
    RouterPolicy{"least-loaded",
                 "fewest outstanding requests, weighed by speed where asked",
                 make_least_loaded,
                 {.telemetry = true, .speed = true}},
    RouterPolicy{"prefix-aware",
                 "to whom more than half of the prompt was sent before, unless loads are far apart (SGLang's "
                 "gateway, cache_aware)",
                 make_prefix_aware,
                 {.telemetry = true}},
    RouterPolicy{"kv-aware",
                 "least new prompt blocks, by what the engines' caches hold, plus active blocks (NVIDIA "
                 "Dynamo's KV router)",
                 make_kv_aware,
                 {.telemetry = true, .overlap = true}},
    RouterPolicy{"shortest-prompt-first",
                 "what arrives together goes on shortest prompt first, each to the least loaded",
                 make_least_loaded,
                 {.telemetry = true, .speed = true, .batch = true}},
    RouterPolicy{"slots", "most room for requests like this one, at the mean output length so far",
                 make_slots},
};

inline constexpr std::array scheduler_policies = {
    SchedulerPolicy{
        "vllm-v1", "vLLM V1 as of 0.24: running first, chunked prefill, tail preemption, two steps in flight",
        make_vllm_v1},
    SchedulerPolicy{
        "sglang",
        "SGLang as of 0.5.23: prefill first, reserved futures, radix tree, retraction, overlap loop",
        make_sglang},
    SchedulerPolicy{
        "tensorrt-llm",
        "TensorRT-LLM 1.2, PyExecutor: capacity scheduler (no evict or max utilization), then micro-batches",
        make_tensorrt_llm},
};

// The engine of an instance: one scheduler, or one for each of `ranks` of attention data parallelism, who
// share the engine's way to choose a rank.
std::unique_ptr<Scheduler> make_instance_scheduler(const SchedulerPolicy& policy,
                                                   const SchedulerConfig& config, std::int32_t ranks);

// Null for an unknown name.
const RouterPolicy* find_router(std::string_view name);
const SchedulerPolicy* find_scheduler(std::string_view name);

}  // namespace orrery
