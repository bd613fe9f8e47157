// TensorRT-LLM's arguments as a scenario resolved them.
#pragma once

#include <cstdint>
#include <string>

namespace orrery {

struct SchedulerSettings;

// YAML lines below `deployment`, nested as the engine nests them. `tp`: ranks that share a host tier.
std::string tensorrt_llm_arguments(const SchedulerSettings& settings, std::int64_t tp);

}  // namespace orrery
