#include "costmodel/memory_doubt.h"

#include <algorithm>
#include <cmath>

#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"
#include "costmodel/profile_reader.h"

namespace orrery {

MemoryError read_memory_error(const Yaml& node) {
  if (!node.present()) return {};
  return {.activations = read_number_figure(node.require("activations"), Dimension::ratio, true),
          .graphs = read_number_figure(node.require("graphs"), Dimension::ratio, true),
          .fixed = read_figure<Bytes>(node.require("fixed"))};
}

Bytes kv_deviation(const InstanceSpec& spec, const MemoryPlan& plan) {
  const MemoryError& e = spec.engine.memory_error;
  if (!e.present() || plan.blocks_overridden || spec.engine.settings.kv_cache_memory_bytes > 0)
    return Bytes(0);
  const double activations = plan.activation_peak.value() * e.activations.value,
               graphs = plan.graphs.value() * e.graphs.value, fixed = e.fixed.value.value();
  const double all = std::sqrt(activations * activations + graphs * graphs + fixed * fixed);
  // TensorRT-LLM takes a fraction of what is left, so a fraction of what that is off by.
  const bool part = spec.engine.engine == "tensorrt-llm";
  return Bytes(part ? all * spec.engine.settings.tensorrt_llm.free_gpu_memory_fraction : all);
}

KvInterval kv_interval(const MemoryPlan& plan, double deviations) {
  const auto blocks = static_cast<double>(plan.kv_blocks);
  if (plan.kv_deviation.value() <= 0 || plan.kv_available.value() <= 0)
    return {plan.kv_blocks, plan.kv_blocks};
  const double off = blocks * deviations * plan.kv_deviation.value() / plan.kv_available.value();
  return {static_cast<std::int64_t>(std::floor(std::max(0.0, blocks - off))),
          static_cast<std::int64_t>(std::ceil(blocks + off))};
}

}  // namespace orrery
