#include "costmodel/tensorrt_llm_states.h"

#include <array>

#include "costmodel/instance_spec.h"
#include "costmodel/memory_plan.h"

namespace orrery {

namespace {

Yaml argument(const Yaml& args, const std::string& group, const std::string& name) {
  const Yaml nested = args.optional(group).optional(name);
  return nested.present() ? nested : args.optional(group + "." + name);
}

}  // namespace

// Which models: `get_kv_cache_manager_cls` (is_nemotron_hybrid, is_qwen3_next). The matrix's type:
// `validate_and_set_mamba_ssm_cache_dtype` of model_loader.py; auto is the model's, whatever its config says.
void resolve_tensorrt_llm_states(EngineProfile& engine, ModelSpec& model, const Yaml& type, const Yaml& args,
                                 const Yaml& place) {
  const std::size_t chosen = type.present() ? type.choice({"auto", "float32", "bfloat16", "float16"}) : 0;
  if (!model.state.present()) {
    if (type.present()) engine.ignored_args.emplace_back("kv_cache_config.mamba_ssm_cache_dtype");
    return;
  }
  const auto fail = [&](const Yaml& at, const std::string& message) {
    (at.present() ? at : place).fail(message);
  };
  if (model.architecture != "Qwen3NextForCausalLM" && model.architecture != "NemotronHForCausalLM")
    return place.fail(model.architecture +
                      " is not a model of TensorRT-LLM 1.2, whose caches of states are for Qwen3-Next and "
                      "Nemotron-H; take vllm or sglang");
  model.state.dtype_of_model = chosen == 0;
  if (chosen > 0) {
    constexpr std::array types{DType::fp32, DType::bf16, DType::fp16};
    model.state.dtype = types[chosen - 1];
    engine.settings.options.set("mamba_ssm_cache_dtype", type.scalar_text());
  }
  if (engine.settings.enable_prefix_caching)
    fail(argument(args, "kv_cache_config", "enable_block_reuse"),
         model.architecture +
             " needs kv_cache_config: {enable_block_reuse: false} (MambaHybridCacheManager asserts it)");
  // Qwen3NextGatedDeltaNet.forward sets the state of every context row to zero, later chunks too.
  if (engine.settings.enable_chunked_prefill && model.state.rule == StateRule::gated_delta)
    fail(args.optional("enable_chunked_prefill"),
         "TensorRT-LLM 1.2 forgets the state between the chunks of a prompt of " + model.architecture +
             "; expected false");
  if (engine.settings.draft_tokens > 0)
    place.fail(
        "drafts beside layers with a state: TensorRT-LLM 1.2 keeps one state a request and cannot go "
        "back to one before rejected drafts; use speculation.method: off");
}

Bytes states_of_batch(const InstanceSpec& spec, const MemoryPlan& plan) {
  if (spec.engine.engine != "tensorrt-llm") return Bytes(0);
  return plan.state_bytes * static_cast<double>(spec.engine.settings.max_num_seqs);
}

}  // namespace orrery
