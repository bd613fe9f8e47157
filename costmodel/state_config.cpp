#include "costmodel/state_config.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

constexpr std::int64_t most = 1'000'000'000;

constexpr std::array of_gated_delta{
    "layer_types",
    "full_attention_interval",
    "linear_conv_kernel_dim",
    "linear_key_head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_value_head_dim",
    "mamba_ssm_dtype",
    "attn_output_gate",
    "num_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "decoder_sparse_step",
    "mlp_only_layers",
    "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
};

constexpr std::array of_nemotron{
    "hybrid_override_pattern",
    "attention_head_dim",
    "mamba_num_heads",
    "mamba_head_dim",
    "n_groups",
    "ssm_state_size",
    "conv_kernel",
    "use_conv_bias",
    "mamba_ssm_cache_dtype",
    "chunk_size",
    "mlp_hidden_act",
    "mamba_hidden_act",
    "use_bias",
    "mamba_proj_bias",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "moe_shared_expert_intermediate_size",
    "n_group",
    "topk_group",
    // numerics, training, and sizes that follow from others
    "auto_map",
    "expand",
    "layer_norm_epsilon",
    "norm_eps",
    "num_logits_to_keep",
    "rescale_prenorm_residual",
    "residual_in_fp32",
    "routed_scaling_factor",
    "time_step_floor",
    "time_step_limit",
    "time_step_max",
    "time_step_min",
    "time_step_rank",
    "use_mamba_kernels",
    "num_nextn_predict_layers",
    "mtp_hybrid_override_pattern",
    "moe_shared_expert_overlap",
};

template <class Names>
bool among(const Names& names, const std::string& key) {
  return std::find(names.begin(), names.end(), key) != names.end();
}

std::int64_t positive(const Yaml& config, const char* key) { return config.require(key).integer(1, 1, most); }

// What vLLM keeps the recurrent state in; absent: `fallback`.
void read_state_type(const Yaml& node, StateLayers& state) {
  if (!node.present() || node.is_null()) return;
  const std::vector<std::string> names = {"float32", "bfloat16", "float16", "auto"};
  constexpr std::array types{DType::fp32, DType::bf16, DType::fp16};
  const std::size_t chosen = node.choice(names);
  state.dtype_of_model = chosen == 3;
  if (chosen < types.size()) state.dtype = types[chosen];
}

std::vector<Mixer> listed_mixers(const Yaml& types, std::int64_t layers) {
  std::vector<Mixer> mixers;
  const std::vector<Yaml> items = types.items();
  if (static_cast<std::int64_t>(items.size()) != layers)
    types.fail("has " + std::to_string(items.size()) + " entries for " + std::to_string(layers) + " layers");
  for (const Yaml& item : items)
    mixers.push_back(item.choice({"linear_attention", "full_attention"}) == 0 ? Mixer::state
                                                                              : Mixer::attention);
  mixers.resize(static_cast<std::size_t>(layers), Mixer::attention);
  return mixers;
}

// Both kinds must be there: a model of one is another thing to the engine's cache.
void check_hybrid(const Yaml& place, const std::vector<Mixer>& mixers) {
  const auto has = [&](Mixer mixer) {
    return std::find(mixers.begin(), mixers.end(), mixer) != mixers.end();
  };
  if (!has(Mixer::state) || !has(Mixer::attention))
    place.fail("names no layer with a state, or none that attends; hybrids of both are supported");
}

void read_gated_experts(const Yaml& config, ModelSpec& model, LayerRules& rules) {
  if (!config.optional("num_experts").present()) return;
  model.experts = config.require("num_experts").integer(1, 1, most);
  model.expert_intermediate = positive(config, "moe_intermediate_size");
  model.experts_per_token = positive(config, "num_experts_per_tok");
  model.shared_expert_intermediate = config.optional("shared_expert_intermediate_size").integer(0, 0, most);
  model.shared_expert_gate = model.shared_expert_intermediate > 0;
  const Yaml step = config.optional("decoder_sparse_step"), list = config.optional("mlp_only_layers");
  const std::int64_t every = step.present() ? step.integer(1, 1, most) : 1;
  for (std::int64_t i = 0; i < model.layers; ++i) rules.dense.push_back((i + 1) % every != 0);
  if (!list.present() || list.is_null()) return;
  for (const Yaml& layer : list.items())
    rules.dense[static_cast<std::size_t>(layer.integer(0, 0, model.layers - 1))] = true;
}

}  // namespace

void expect(const Yaml& config, const char* key, const std::string& value) {
  const Yaml node = config.optional(key);
  if (!node.present() || node.is_null() || node.scalar_text() == value) return;
  node.fail(quote(node.scalar_text()) + " is not supported here; supported: " + value);
}

bool is_gated_delta_field(const std::string& key) { return among(of_gated_delta, key); }
bool is_nemotron_field(const std::string& key) { return among(of_nemotron, key); }

void read_gated_delta(const Yaml& config, ModelSpec& model, LayerRules& rules) {
  StateLayers& s = model.state;
  s.rule = StateRule::gated_delta;
  s.key_heads = positive(config, "linear_num_key_heads");
  s.value_heads = positive(config, "linear_num_value_heads");
  s.key_dim = positive(config, "linear_key_head_dim");
  s.value_dim = positive(config, "linear_value_head_dim");
  s.taps = config.require("linear_conv_kernel_dim").integer(4, 2, 16);
  s.interleaved = model.architecture == "Qwen3NextForCausalLM";
  // Qwen3-Next's config does not say how many layers predict further tokens; vLLM takes one
  // (Qwen3NextMultiTokenPredictor).
  const Yaml further = config.optional(s.interleaved ? "num_nextn_predict_layers" : "mtp_num_hidden_layers");
  model.mtp_layers = further.present() && !further.is_null() ? further.integer(0, 0, 16) : s.interleaved;
  // Without the field, which Qwen3-Next lacks, vLLM 0.24 keeps the state in the model's type
  // (config/cache.py, mamba_ssm_cache_dtype: auto); Qwen3.5's configs say float32
  // (Qwen3_5ForConditionalGenerationConfig).
  s.dtype_of_model = true;
  if (const Yaml type = config.optional("mamba_ssm_dtype"); type.present()) {
    s.dtype_of_model = false;
    read_state_type(type, s);
  }
  if (s.value_heads % std::max<std::int64_t>(1, s.key_heads) != 0)
    config.optional("linear_num_key_heads")
        .fail("does not divide linear_num_value_heads (" + std::to_string(s.value_heads) + ")");
  const Yaml gate = config.optional("attn_output_gate");
  model.output_gate = !gate.present() || gate.boolean(true);
  const Yaml types = config.optional("layer_types"), interval = config.optional("full_attention_interval");
  const std::int64_t every = interval.present() ? interval.integer(4, 1, most) : 4;
  if (types.present() && !types.is_null()) {
    rules.mixers = listed_mixers(types, model.layers);
  } else {
    for (std::int64_t i = 0; i < model.layers; ++i)
      rules.mixers.push_back((i + 1) % every == 0 ? Mixer::attention : Mixer::state);
  }
  check_hybrid(types.present() ? types : config, rules.mixers);
  read_gated_experts(config, model, rules);
}

void read_nemotron(const Yaml& config, ModelSpec& model, LayerRules& rules) {
  StateLayers& s = model.state;
  s.rule = StateRule::mamba2;
  s.key_heads = positive(config, "n_groups");
  s.value_heads = positive(config, "mamba_num_heads");
  s.key_dim = positive(config, "ssm_state_size");
  s.value_dim = positive(config, "mamba_head_dim");
  s.taps = config.require("conv_kernel").integer(4, 2, 16);
  s.chunk = config.optional("chunk_size").integer(128, 16, 4096);
  s.conv_bias = config.optional("use_conv_bias").boolean(true);
  read_state_type(config.optional("mamba_ssm_cache_dtype"), s);  // fp32 unless it says otherwise
  model.gated_mlp = model.rotary = false;
  expect(config, "mlp_hidden_act", "relu2");
  expect(config, "mamba_hidden_act", "silu");
  for (const char* bias : {"use_bias", "mamba_proj_bias"}) expect(config, bias, "false");
  const Yaml pattern = config.require("hybrid_override_pattern");
  const std::string text = pattern.text();
  if (static_cast<std::int64_t>(text.size()) != model.layers)
    pattern.fail("has " + std::to_string(text.size()) + " letters for " + std::to_string(model.layers) +
                 " layers");
  bool sparse = false;
  for (const char layer : text) {
    if (std::string("M*-E").find(layer) == std::string::npos) {
      pattern.fail("letter " + quote(std::string(1, layer)) +
                   " is not supported; supported: M (Mamba2), * (attention), - (MLP), E (experts)");
      break;
    }
    rules.mixers.push_back(layer == 'M' ? Mixer::state : layer == '*' ? Mixer::attention : Mixer::none);
    rules.alone.push_back(layer == 'M' || layer == '*');
    rules.dense.push_back(layer != 'E');
    sparse = sparse || layer == 'E';
  }
  rules.mixers.resize(static_cast<std::size_t>(model.layers), Mixer::attention);
  rules.alone.resize(rules.mixers.size(), true);
  rules.dense.resize(rules.mixers.size(), true);
  check_hybrid(pattern, rules.mixers);
  if (!sparse) return;
  model.experts = positive(config, "n_routed_experts");
  model.expert_intermediate = positive(config, "moe_intermediate_size");
  model.experts_per_token = positive(config, "num_experts_per_tok");
  const std::int64_t shared = config.optional("n_shared_experts").integer(0, 0, 1024);
  if (shared > 0)
    model.shared_expert_intermediate = shared * positive(config, "moe_shared_expert_intermediate_size");
  const std::int64_t groups = config.optional("n_group").integer(1, 1, 1024);
  choose_groups(model, groups, config.optional("topk_group").integer(1, 1, groups), 2);
  model.router_fp32 = rules.router_bias = true;  // GateLinear, force_fp32_compute; e_score_correction_bias
}

}  // namespace orrery
