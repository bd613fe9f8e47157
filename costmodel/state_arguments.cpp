// What vLLM 0.24 decides for models in which some layers keep a state (models/config.py,
// HybridAttentionMambaModelConfig and MambaModelConfig; platforms/interface.py,
// update_block_size_for_backend).
#include <array>
#include <cmath>
#include <numeric>

#include "base/text.h"
#include "costmodel/engine_profile.h"
#include "costmodel/kv_groups.h"
#include "costmodel/model_spec.h"
#include "costmodel/parallel_plan.h"
#include "costmodel/state_layers.h"

namespace orrery {

void apply_state_argument(const std::string& name, const Yaml& value, EngineProfile& engine,
                          ModelSpec& model) {
  const bool scans = model.state.rule == StateRule::gated_delta;
  if (!model.state.present() || (name == "gdn_prefill_backend" && !scans)) {
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
    // `all` falls back to align where the model cannot do it; none means the default, with prefix caching.
    if (value.choice({"none", "align", "all"}) == 1) engine.settings.state_every_block = false;
  } else if (name == "gdn_prefill_backend") {
    // What is not for this part falls back to Triton's kernels (`_resolve_gdn_prefill_backend` of
    // mamba/gdn/qwen_gdn_linear_attn.py).
    engine.settings.triton_scan = value.choice({"auto", "flashinfer", "triton", "cutedsl"}) >= 2;
  } else if (name == "mamba_block_size") {
    value.integer(1, 1, 1 << 20);  // choose_state_blocks
  } else if (value.scalar_text() != "auto" && !value.is_null()) {
    value.fail("is not modelled for models with a state; leave it out");
  }
}

// Defaults of hybrid models (config/model.py, `is_prefix_caching_supported`; models/config.py,
// MambaModelConfig; nemotron_h.py is SupportsMambaPrefixCaching, qwen3_next.py and qwen3_5.py are not).
void set_state_defaults(EngineProfile& engine, const ModelSpec& model) {
  if (!model.state.present()) return;
  engine.settings.enable_prefix_caching = false;
  engine.settings.state_every_block = model.state.rule == StateRule::mamba2;
}

// What `validate_block_size` and MambaModelConfig assert of chunks that end where blocks do.
void check_state_blocks(const EngineProfile& engine, const ModelSpec& model, const Yaml& args,
                        const Yaml& place) {
  const SchedulerSettings& s = engine.settings;
  if (!model.state.present() || !s.enable_prefix_caching || s.state_every_block) return;
  const auto refuse = [&](const char* key, const std::string& why) {
    const Yaml argument = args.present() ? args.optional(key) : Yaml{};
    (argument.present() ? argument
     : args.present()   ? args
                        : place)
        .fail(why +
              " with prefix caching of a model with a state (mamba_cache_mode: align; vLLM asserts it)");
  };
  const std::string blocks = "must be at least the block size, " + std::to_string(s.block_size) + " tokens,";
  if (s.max_num_batched_tokens < s.block_size) refuse("max_num_batched_tokens", blocks);
  if (s.long_prefill_token_threshold > 0 && s.long_prefill_token_threshold < s.block_size)
    refuse("long_prefill_token_threshold", blocks);
  if (!s.enable_chunked_prefill) refuse("enable_chunked_prefill", "must be true");
  if (s.encoder.disable_chunked_mm_input) refuse("disable_chunked_mm_input", "must be false");
}

namespace {

// Tokens of a block that begin and end where a scan's chunks do and hold a state
// (`_align_hybrid_block_size` with mamba_cache_mode: all).
std::int64_t block_of_chunks(std::int64_t chunk, std::int64_t alignment, double page_token, double state) {
  const std::int64_t step = std::lcm(chunk, alignment);
  const auto tokens = static_cast<std::int64_t>(std::ceil(state / page_token));
  return (tokens + step - 1) / step * step;
}

}  // namespace

// The engine enlarges its blocks until a page of attention holds a state.
void choose_state_blocks(EngineProfile& engine, const ModelSpec& model, const ParallelPlan& plan,
                         const Yaml& args, const Yaml& place) {
  if (!model.state.present()) return;
  SchedulerSettings& s = engine.settings;
  const auto refuse = [&](const char* key, const std::string& why) {
    const Yaml argument = args.present() ? args.optional(key) : Yaml{};
    (argument.present() ? argument : place).fail(why);
  };
  if (s.enable_prefix_caching && s.draft_tokens > 0 && s.kv_offload_bytes > 0)
    refuse("kv_offloading_size", "is not modelled for a model with a state beside speculation; leave it out");
  const Yaml given = args.present() ? args.optional("mamba_block_size") : Yaml{};
  if (given.present() && !s.enable_prefix_caching)
    given.fail("has a meaning with enable_prefix_caching: true only (vLLM refuses it too)");
  if (s.disable_hybrid_kv_cache_manager)
    refuse("disable_hybrid_kv_cache_manager",
           "layers with a state need groups of their own; expected false (vLLM fails too)");
  // v1/kv_offload/base.py, OffloadingSpec: else a state's block is as long as the model, and no hash ends
  // there.
  if (s.kv_offload_bytes > 0 && !s.enable_prefix_caching)
    refuse("kv_offloading_size",
           "needs enable_prefix_caching: true for a model with a state (vLLM 0.24 asserts it)");
  if (model.state.key_heads % plan.tp != 0 || model.state.value_heads % plan.tp != 0)
    return;  // refused there
  const double token = model.kv_layer_bytes(plan.tp);
  const double state = model.state.bytes(plan.tp, model.activation_dtype, s.draft_tokens);
  if (s.enable_prefix_caching && s.state_every_block)
    s.block_size = block_of_chunks(given.present() ? given.integer(1, 1, 1 << 20) : model.state.chunk,
                                   s.block_size, token, state);
  else
    s.block_size = block_with_state(s.block_size, token, state);
}

}  // namespace orrery
