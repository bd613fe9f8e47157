// What vLLM 0.24 decides for models in which some layers keep a state (models/config.py,
// HybridAttentionMambaModelConfig and MambaModelConfig; platforms/interface.py,
// update_block_size_for_backend).
#include <array>

#include "base/text.h"
#include "costmodel/engine_profile.h"
#include "costmodel/kv_groups.h"
#include "costmodel/model_spec.h"
#include "costmodel/parallel_plan.h"
#include "costmodel/state_layers.h"

namespace orrery {

void apply_state_argument(const std::string& name, const Yaml& value, EngineProfile& engine,
                          ModelSpec& model) {
  if (!model.state.present()) {
    engine.ignored_args.push_back(name);
    value.scalar_text();
    return;
  }
  if (name == "mamba_ssm_cache_dtype") {
    const std::size_t chosen = value.choice({"auto", "float32", "bfloat16", "float16"});
    constexpr std::array types{DType::fp32, DType::bf16, DType::fp16};
    if (chosen == 0) return;  // as the config says
    model.state.dtype_of_model = false;
    model.state.dtype = types[chosen - 1];
  } else if (name == "mamba_cache_mode") {
    if (value.choice({"none", "align", "all"}) != 0)
      value.fail(
          "prefix caching of models with a state is not modelled by this version of Orrery; expected none, "
          "vLLM's default (it calls the others experimental)");
  } else if (value.scalar_text() != "auto" && !value.is_null()) {
    value.fail("is not modelled for models with a state; leave it out");
  }
}

// Default of hybrid models (config/model.py, `is_prefix_caching_supported`).
void set_state_defaults(EngineProfile& engine, const ModelSpec& model) {
  if (model.state.present()) engine.settings.enable_prefix_caching = false;
}

// The engine enlarges its blocks until a page of attention holds a state.
void choose_state_blocks(EngineProfile& engine, const ModelSpec& model, const ParallelPlan& plan,
                         const Yaml& args, const Yaml& place) {
  if (!model.state.present()) return;
  SchedulerSettings& s = engine.settings;
  const auto refuse = [&](const char* key, const std::string& why) {
    const Yaml argument = args.present() ? args.optional(key) : Yaml{};
    (argument.present() ? argument : place).fail(why);
  };
  if (s.enable_prefix_caching)
    refuse("enable_prefix_caching",
           "prefix caching of models with a state is off in vLLM 0.24 unless asked for, and what it would do "
           "(mamba_cache_mode) is not modelled by this version of Orrery; expected false");
  if (s.disable_hybrid_kv_cache_manager)
    refuse("disable_hybrid_kv_cache_manager",
           "layers with a state need groups of their own; expected false (vLLM fails too)");
  if (s.kv_offload_bytes > 0)
    refuse("kv_offloading_size", "is not modelled for models with a state; leave it out");
  if (model.state.key_heads % plan.tp != 0 || model.state.value_heads % plan.tp != 0)
    return;  // refused there
  s.block_size = block_with_state(s.block_size, model.kv_layer_bytes(plan.tp),
                                  model.state.bytes(plan.tp, model.activation_dtype));
}

}  // namespace orrery
