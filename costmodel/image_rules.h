// What SGLang 0.5.23 does for models that take images, and for Qwen3-VL on Hopper, that no field of the model
// says.
#pragma once

#include "costmodel/gemma_rules.h"
#include "costmodel/hardware.h"

namespace orrery {

inline bool takes_images(const ModelSpec& model, const EngineProfile& engine) {
  return model.vision != nullptr && !serves_text_only(model, engine);
}

inline Bytes driver_memory(const EngineProfile& engine, const HardwareProfile& hardware) {
  return hardware.memory_total.value + engine.typed->memory.driver_more.value;
}

// `large_hopper_qwen3_vl_model_type` (arg_groups/model_overrides/qwen3_vl.py).
inline bool is_qwen3_vl_on_large_hopper(const ModelSpec& model, const EngineProfile& engine,
                                        const HardwareProfile& hardware) {
  constexpr double least = 60.0 * 1024 * 1024 * 1024;
  const bool qwen = model.architecture == "Qwen3VLForConditionalGeneration" ||
                    model.architecture == "Qwen3VLMoeForConditionalGeneration";
  return qwen && takes_images(model, engine) && engine.version == "0.5.23" &&
         hardware.architecture == "sm_90a" && driver_memory(engine, hardware).value() >= least;
}

// `mm_runtime_reservation_gb` (mem_cache/kv_cache_configurator.py): what the KV cache leaves to the embedding
// cache (SGLANG_VLM_CACHE_SIZE_MB) and, where features come by CUDA IPC, to their pool
// (SGLANG_MM_FEATURE_CACHE_MB). Qwen3-VL's defaults on Hopper have no cache and such a pool, a larger one for
// many requests (`_qwen3vl_hopper_serving_overrides`).
inline Bytes reserved_for_images(const ModelSpec& model, const EngineProfile& engine,
                                 const HardwareProfile& hardware) {
  constexpr double mib = 1024.0 * 1024;
  if (engine.version != "0.5.23" || !takes_images(model, engine)) return Bytes(0);
  if (!is_qwen3_vl_on_large_hopper(model, engine, hardware)) return Bytes(100 * mib);
  const NamedOptions& o = engine.settings.options;
  const bool many = o.has("max_running_requests") && o.integer("max_running_requests") >= 400;
  return Bytes((many ? 3 : 1) * 1024 * mib);
}

}  // namespace orrery
