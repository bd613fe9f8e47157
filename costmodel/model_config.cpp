#include "costmodel/model_config.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "costmodel/harmless_fields.h"
#include "costmodel/model_architectures.h"
#include "costmodel/model_layers.h"
#include "costmodel/profile_reader.h"
#include "costmodel/state_config.h"

namespace orrery {

namespace {

class ConfigReader {
 public:
  ConfigReader(const Yaml& config, const std::string& decoder, const Yaml& outer)
      : config_(config), decoder_(decoder), outer_(outer) {}

  ModelSpec read() {
    if (!read_architecture()) return std::move(model_);
    read_sizes();
    read_attention();
    read_experts();
    read_positions();
    check_redundant_fields();
    refuse_unknown_fields();
    if (config_sound()) build_layers(layers_, model_);
    return std::move(model_);
  }

 private:
  bool read_architecture() {
    const Yaml list = decoder_.empty() ? config_.require("architectures") : config_.optional("architectures");
    if (!list.present() && decoder_.empty()) return false;
    const std::vector<Yaml> items = list.present() ? list.items() : std::vector<Yaml>{};
    const Yaml name = items.size() == 1 ? items[0] : list;
    model_.architecture = decoder_.empty() ? name.scalar_text() : decoder_;
    for (const Architecture& a : architectures) {
      if (model_.architecture == a.name) architecture_ = &a;
    }
    if (architecture_ != nullptr) return true;
    (name.present() ? name : config_)
        .fail("architecture " + quote(model_.architecture) +
              " is not supported; supported: " + supported_architectures());
    accept_all(config_);  // without the architecture, no other field means anything
    return false;
  }

  std::int64_t positive(const char* key, std::int64_t fallback = 0) {
    const Yaml node = fallback > 0 ? config_.optional(key) : config_.require(key);
    if (!node.present() || (fallback > 0 && node.is_null())) return fallback;
    return node.integer(1, 1, 1'000'000'000);
  }

  bool flag(const char* key, bool fallback) {
    const Yaml node = config_.optional(key);
    return node.present() && !node.is_null() ? node.boolean(fallback) : fallback;
  }

  bool outer_flag(const char* key) const {
    const Yaml node = outer_.present() ? outer_.optional(key) : Yaml{};
    return node.present() && !node.is_null() && node.boolean(false);
  }

  void read_sizes() {
    model_.hidden = positive("hidden_size");
    model_.layers = positive("num_hidden_layers");
    const GemmaDefaults left_out = gemma_defaults();
    model_.heads = positive("num_attention_heads", left_out.heads);
    // Qwen3.5's configs of experts alone leave it out.
    const bool without_dense = hybrid() && config_.optional("num_experts").present();
    model_.intermediate = positive("intermediate_size", without_dense ? 1 : 0);
    model_.vocabulary = positive("vocab_size", left_out.vocabulary);
    const std::int64_t heads = std::max<std::int64_t>(1, model_.heads);
    model_.kv_heads = positive("num_key_value_heads", left_out.kv_heads > 0 ? left_out.kv_heads : heads);
    model_.head_dim =
        positive("head_dim", left_out.head_dim > 0 ? left_out.head_dim
                                                   : std::max<std::int64_t>(1, model_.hidden / heads));
    if (architecture_->family == Family::deepseek) read_latent();
    model_.tied_embeddings = flag("tie_word_embeddings", gemma()) || outer_flag("tie_word_embeddings");
    model_.activation_dtype = model_.kv_dtype = read_dtype();
    if (architecture_->family == Family::nemotron && config_.optional("attention_head_dim").present())
      model_.head_dim = positive("attention_head_dim");
    const std::string activation = gemma() ? "gelu_pytorch_tanh" : "silu";
    for (const char* key : {"hidden_act", "hidden_activation"}) {
      const Yaml act = config_.optional(key);
      if (act.present() && !act.is_null() && act.text() != activation)
        act.fail("activation " + quote(act.scalar_text()) + " is not supported in " + model_.architecture +
                 "; supported: " + activation);
    }
  }

  bool gemma() const { return architecture_->family == Family::gemma; }
  bool glm() const { return architecture_->family == Family::glm; }
  bool sparse() const {
    return model_.architecture == "DeepseekV32ForCausalLM" || model_.architecture == "GlmMoeDsaForCausalLM";
  }
  bool hybrid() const { return architecture_->family == Family::gated_delta; }

  // What transformers' Gemma2Config and Gemma3TextConfig assume of fields that a config leaves out, as the
  // published Gemma-3 configs do (models/gemma3/configuration_gemma3.py). 0 = the field is needed.
  struct GemmaDefaults {
    std::int64_t heads = 0, kv_heads = 0, head_dim = 0, vocabulary = 0, positions = 0, pattern = 0;
  };
  GemmaDefaults gemma_defaults() const {
    if (!gemma()) return {};
    if (model_.architecture == "Gemma2ForCausalLM") return {8, 4, 256, 256'000, 8192, 2};
    return {8, 4, 256, 262'208, 131'072, 6};
  }

  // num_key_value_heads of these configs counts expanded heads, which nothing stores.
  void read_latent() {
    LatentAttention& a = model_.latent;
    a.rank = positive("kv_lora_rank");
    a.key_dim = positive("qk_nope_head_dim");
    a.rotary_dim = positive("qk_rope_head_dim");
    a.value_dim = positive("v_head_dim");
    if (const Yaml rank = config_.optional("q_lora_rank"); rank.present() && !rank.is_null())
      a.query_rank = rank.integer(1, 1, 1'000'000'000);
    model_.kv_heads = 1;
    model_.head_dim = a.rank + a.rotary_dim;
    if (sparse()) {
      model_.sparse = {positive("index_n_heads"), positive("index_head_dim"), positive("index_topk")};
      if (a.query_rank == 0) config_.fail("an indexer needs q_lora_rank, out of which its queries are made");
    }
  }

  // float32 checkpoints run in bfloat16 (vLLM's `--dtype auto`).
  DType read_dtype() {
    const Yaml old_name = config_.optional("torch_dtype"), new_name = config_.optional("dtype");
    Yaml node = new_name.present() ? new_name : old_name;
    if (!node.present() && outer_.present()) {
      const Yaml outer_old = outer_.optional("torch_dtype"), outer_new = outer_.optional("dtype");
      node = outer_new.present() ? outer_new : outer_old;
    }
    if (!node.present() || node.is_null()) return DType::bf16;
    const std::vector<std::string> names = {"bfloat16", "float16", "float32"};
    return node.choice(names) == 1 ? DType::fp16 : DType::bf16;
  }

  void read_attention() {
    model_.qk_norm = glm() ? flag("use_qk_norm", false) : architecture_->qk_norm;
    model_.attention_bias = flag("attention_bias", architecture_->qkv_bias) || architecture_->qkv_bias;
    layers_.mlp_bias = flag("mlp_bias", false);
    const bool of_output_too =
        gemma() || model_.architecture == "LlamaForCausalLM" || model_.architecture == "Phi3ForCausalLM";
    layers_.output_bias =
        architecture_->family == Family::gpt_oss || (model_.attention_bias && of_output_too);
    model_.attention_sinks = architecture_->family == Family::gpt_oss;
    const Yaml window = config_.optional("sliding_window");
    const bool active = flag("use_sliding_window", model_.architecture != "Qwen2ForCausalLM");
    const Yaml types = config_.optional("layer_types");
    const bool has_window = window.present() && !window.is_null() && window.scalar_text() != "0" && active;
    if (gemma()) return read_gemma(window, types);
    if (hybrid()) return read_gated_delta(config_, model_, layers_);
    if (architecture_->family == Family::nemotron) read_nemotron(config_, model_, layers_);
    if (architecture_->family == Family::gpt_oss) {
      layers_.expert_biases = true;
      layers_.window = has_window ? window.integer(128, 1, 1'000'000'000) : 0;
      // Alternating, beginning with a sliding layer, unless the config lists the layers.
      for (std::int64_t i = 0; i < model_.layers; ++i) layers_.sliding.push_back(i % 2 == 0);
      read_layer_types(types);
      return;
    }
    if (has_window) return read_dense_windows(window, types);
    if (!types.present() || types.is_null()) return;
    for (const Yaml& type : types.items()) {
      if (type.text() != "full_attention")
        type.fail("layers of type " + quote(type.scalar_text()) + " are not supported in " +
                  model_.architecture + " without a sliding_window; supported: full_attention");
    }
  }

  // Every `pattern`-th layer sees all tokens, the others a window, unless the config lists the layers.
  void read_gemma(const Yaml& window, const Yaml& types) {
    const bool second = model_.architecture == "Gemma2ForCausalLM";
    model_.output_norms = model_.gelu = model_.scaled_embedding = true;
    const auto capped = [&](const char* key, bool unless_said) {
      const Yaml cap = config_.optional(key);
      if (!cap.present()) return unless_said;
      return !cap.is_null() && cap.number(1) > 0;
    };
    model_.attention_softcap = capped("attn_logit_softcapping", second);
    model_.logit_softcap = capped("final_logit_softcapping", second);
    if (model_.attention_softcap && !second)
      config_.optional("attn_logit_softcapping")
          .fail("capped scores are not supported in " + model_.architecture +
                " (vLLM 0.24 leaves the cap out); supported: null");
    if (const Yaml both = config_.optional("use_bidirectional_attention");
        both.present() && !both.is_null() && both.boolean(false))
      both.fail("attention to later tokens (an embedding model) is not supported; supported: false");
    layers_.window = window.is_null() ? 0 : window.integer(4096, 2, 1'000'000'000);
    const std::int64_t pattern =
        positive("sliding_window_pattern", positive("_sliding_window_pattern", gemma_defaults().pattern));
    for (std::int64_t i = 0; i < model_.layers; ++i) layers_.sliding.push_back((i + 1) % pattern != 0);
    read_layer_types(types);
    refuse_idle_window(types.present() ? types : config_);
  }

  // vLLM 0.24: the layers that the config lists (models/llama.py), or all when it does not say that they
  // differ (arg_utils.py). Qwen's configs say it with max_window_layers, whose default is transformers';
  // above 0 the engine refuses, or does other than the config says (models/qwen2.py, qwen3.py).
  void read_dense_windows(const Yaml& window, const Yaml& types) {
    const std::string& name = model_.architecture;
    const bool qwen = name == "Qwen2ForCausalLM" || name == "Qwen3ForCausalLM";
    const Yaml from = config_.optional("max_window_layers");
    if ((!qwen && name != "MistralForCausalLM" && name != "Phi3ForCausalLM") || !decoder_.empty())
      return window.fail("a sliding window is not supported in " + name +
                         (decoder_.empty() ? "" : " beside images") +
                         "; supported: null, or tokens in MistralForCausalLM, Phi3ForCausalLM, "
                         "Qwen2ForCausalLM, Qwen3ForCausalLM and GptOssForCausalLM without images, and in "
                         "Gemma 2 and 3");
    if (qwen && from.integer(28, 0) != 0)
      return (from.present() ? from : window)
          .fail("a sliding window of some layers is not supported in " + name +
                " (nor by vLLM 0.24); "
                "supported: max_window_layers: 0, or use_sliding_window: false");
    layers_.window = window.integer(0, 2, 1'000'000'000);
    layers_.sliding.assign(static_cast<std::size_t>(model_.layers), true);
    read_layer_types(types);
    refuse_idle_window(types);
  }

  void refuse_idle_window(const Yaml& types) const {
    if (layers_.window > 0 &&
        std::find(layers_.sliding.begin(), layers_.sliding.end(), true) == layers_.sliding.end())
      types.fail(
          "lists full_attention only, beside a sliding_window that vLLM 0.24 then gives to every "
          "layer; set sliding_window: null, or leave layer_types out");
  }

  void read_layer_types(const Yaml& types) {
    if (!types.present() || types.is_null()) return;
    const std::vector<Yaml> items = types.items();
    if (static_cast<std::int64_t>(items.size()) != model_.layers) {
      types.fail("has " + std::to_string(items.size()) + " entries for " + std::to_string(model_.layers) +
                 " layers");
      return;
    }
    const std::vector<std::string> names = {"full_attention", "sliding_attention"};
    for (std::size_t i = 0; i < items.size(); ++i) layers_.sliding[i] = items[i].choice(names) == 1;
  }

  void read_experts() {
    switch (architecture_->family) {
      case Family::dense:
      case Family::gemma:
      case Family::nemotron: break;
      case Family::gated_delta: return;
      case Family::qwen_moe:
        model_.experts = positive("num_experts");
        model_.expert_intermediate = positive("moe_intermediate_size");
        model_.experts_per_token = positive("num_experts_per_tok");
        read_dense_layers();
        break;
      case Family::minimax:
        model_.router_fp32 = layers_.router_bias = true;  // GateLinear in fp32, e_score_correction_bias
        expect(config_, "use_routing_bias", "true");
        expect(config_, "qk_norm_type", "per_layer");
        expect(config_, "shared_intermediate_size", "0");
        [[fallthrough]];
      case Family::mixtral:
        model_.experts = positive("num_local_experts");
        model_.expert_intermediate = model_.intermediate;
        model_.experts_per_token = positive("num_experts_per_tok");
        break;
      case Family::gpt_oss:
        model_.experts = positive("num_local_experts");
        model_.expert_intermediate = model_.intermediate;
        model_.experts_per_token = positive("num_experts_per_tok", 4);
        if (const Yaml same = config_.optional("experts_per_token");
            same.present() && same.integer() != model_.experts_per_token) {
          same.fail("differs from num_experts_per_tok");
        }
        break;
      case Family::glm: model_.router_fp32 = true; [[fallthrough]];
      case Family::deepseek: read_deepseek_experts(); break;
    }
    if (const Yaml shared = config_.optional("shared_expert_intermediate_size");
        shared.present() && !shared.is_null() && shared.integer() != 0) {
      shared.fail("a shared expert is not supported in " + model_.architecture + "; supported: 0");
    }
    if (model_.experts_per_token > model_.experts && model_.experts > 0) {
      config_.optional("num_experts_per_tok")
          .fail("is more than the number of experts (" + std::to_string(model_.experts) + ")");
    }
  }

  // The first layers are dense, then every moe_layer_freq-th is sparse. `topk_method: greedy` has no groups.
  void read_deepseek_experts() {
    model_.experts = positive("n_routed_experts");
    model_.expert_intermediate = positive("moe_intermediate_size");
    model_.experts_per_token = positive("num_experts_per_tok");
    if (const Yaml shared = config_.optional("n_shared_experts"); shared.present() && !shared.is_null())
      model_.shared_expert_intermediate = shared.integer(0, 0, 1024) * model_.expert_intermediate;
    const std::int64_t groups = positive("n_group", 1), chosen = positive("topk_group", 1);
    const Yaml method = config_.optional("topk_method");
    const std::size_t rule = glm() ? 2  // always with a correction that joins the scores
                             : method.present()
                                 ? method.choice({"greedy", "group_limited_greedy", "noaux_tc"})
                                 : 0;
    if (chosen > groups || (model_.experts > 0 && model_.experts % groups != 0))
      config_.optional("n_group").fail("must divide n_routed_experts and be at least topk_group");
    if (rule > 0) choose_groups(model_, groups, chosen, rule);
    layers_.router_bias = rule == 2;
    const std::int64_t first = config_.optional("first_k_dense_replace").integer(0, 0, model_.layers);
    const std::int64_t step = positive("moe_layer_freq", 1);
    for (std::int64_t i = 0; i < model_.layers; ++i) layers_.dense.push_back(i < first || i % step != 0);
  }

  // A layer is sparse when (index + 1) is a multiple of decoder_sparse_step and it is not in mlp_only_layers.
  void read_dense_layers() {
    const std::int64_t step = positive("decoder_sparse_step", 1);
    for (std::int64_t i = 0; i < model_.layers; ++i) layers_.dense.push_back((i + 1) % step != 0);
    const Yaml list = config_.optional("mlp_only_layers");
    if (!list.present() || list.is_null()) return;
    for (const Yaml& layer : list.items()) {
      const std::int64_t i = layer.integer(0, 0, model_.layers - 1);
      if (!layers_.dense.empty()) layers_.dense[static_cast<std::size_t>(i)] = true;
    }
  }

  // Longest context, by vLLM's rule (`_get_and_verify_max_len`): llama3 and longrope scale inside
  // max_position_embeddings; yarn multiplies the original length, linear and dynamic the given one.
  void read_positions() {
    model_.max_positions = positive("max_position_embeddings", gemma_defaults().positions);
    const Yaml nextn = config_.optional("num_nextn_predict_layers");
    if (!hybrid()) model_.mtp_layers = nextn.is_null() ? 0 : nextn.integer(0, 0, 16);
    Yaml scaling = config_.optional("rope_scaling");
    if (const Yaml parameters = config_.optional("rope_parameters"); parameters.present())
      scaling = parameters;
    if (!scaling.present() || scaling.is_null()) return;
    // vLLM's rule for "gemma3": max_position_embeddings holds the factor already; there are two bases, nested
    // by layer type or one of them as rope_local_base_freq.
    if (model_.architecture == "Gemma3ForCausalLM") return accept_all(scaling);
    Yaml type = scaling.optional("rope_type");
    if (const Yaml old_name = scaling.optional("type"); !type.present()) type = old_name;
    const Yaml factor = scaling.optional("factor"),
               original = scaling.optional("original_max_position_embeddings");
    accept_all(scaling);
    const std::string name = type.present() ? type.text() : "default";
    const double times = factor.present() ? factor.number(1, 1) : 1;
    if (name == "yarn" && original.present()) {
      model_.max_positions = static_cast<std::int64_t>(static_cast<double>(original.integer(1, 1)) * times);
    } else if (name == "linear" || name == "dynamic" || name == "yarn") {
      model_.max_positions = static_cast<std::int64_t>(static_cast<double>(model_.max_positions) * times);
    } else if (name == "longrope" || name == "su") {
      read_long_rope();
    } else if (name != "default" && name != "llama3" && (name != "mrope" || decoder_.empty())) {
      type.fail("rope scaling " + quote(name) +
                " is not supported; supported: default, llama3, longrope, yarn, linear, dynamic");
    }
  }

  // Without max_model_len vLLM serves the context that the model was first trained for ("su" is what Phi-3
  // called longrope at first).
  void read_long_rope() {
    const Yaml original = config_.optional("original_max_position_embeddings");
    if (original.present() && !original.is_null())
      model_.original_positions = original.integer(1, 1, model_.max_positions);
  }

  // Fields that say what the architecture says anyway; another value changes shapes.
  void check_redundant_fields() {
    struct Redundant {
      const char* field;
      std::string value;
      const char* what;
    };
    const std::array fields = {
        Redundant{"qkv_bias", model_.attention_bias ? "true" : "false",
                  "biases of q, k and v other than the architecture's"},
        Redundant{"use_qk_norm", model_.qk_norm ? "true" : "false",
                  "per-head norms other than the architecture's"},
        Redundant{"head_bias", "false", "a bias of lm_head"},
        Redundant{"lm_head_bias", "false", "a bias of lm_head"},
    };
    read_partial_rotary();
    for (const Redundant& field : fields) {
      const Yaml node = config_.optional(field.field);
      redundant_.emplace_back(field.field);
      if (!node.present() || node.is_null() || node.scalar_text() == field.value) continue;
      accept_all(node);
      node.fail(std::string(field.what) + " are not supported in " + model_.architecture +
                "; supported: " + field.value);
    }
  }

  // Phi-4-mini turns three quarters of a head's features, GLM-4.5 half of them. Prices are those of whole
  // heads, a little too long.
  void read_partial_rotary() {
    const Yaml part = config_.optional("partial_rotary_factor");
    redundant_.emplace_back("partial_rotary_factor");
    if (!part.present() || part.is_null()) return;
    if (model_.architecture == "Phi3ForCausalLM" || glm() || hybrid()) {
      part.number(1, 0.01, 1);
    } else if (part.number(1) != 1) {
      part.fail("a partial rotary embedding is not supported in " + model_.architecture + "; supported: 1.0");
    }
  }

  void refuse_unknown_fields() {
    const std::array read_elsewhere = {"architectures",
                                       "hidden_size",
                                       "num_hidden_layers",
                                       "num_attention_heads",
                                       "intermediate_size",
                                       "vocab_size",
                                       "num_key_value_heads",
                                       "head_dim",
                                       "tie_word_embeddings",
                                       "torch_dtype",
                                       "dtype",
                                       "hidden_act",
                                       "hidden_activation",
                                       "attention_bias",
                                       "mlp_bias",
                                       "sliding_window",
                                       "use_sliding_window",
                                       "layer_types",
                                       "shared_expert_intermediate_size",
                                       "max_position_embeddings",
                                       "num_nextn_predict_layers",
                                       "rope_scaling",
                                       "rope_parameters",
                                       "quantization_config"};
    const bool deepseek = architecture_->family == Family::deepseek;
    const bool phi = model_.architecture == "Phi3ForCausalLM";
    const auto among = [](const auto& names, const std::string& key) {
      return std::find(names.begin(), names.end(), key) != names.end();
    };
    for (const auto& [key, value] : config_.entries()) {
      if (among(read_elsewhere, key) || among(redundant_, key)) continue;
      const bool harmless =
          among(harmless_fields, key) || ((deepseek || glm()) && among(harmless_in_deepseek, key)) ||
          (gemma() && among(harmless_in_gemma, key)) || (phi && among(harmless_in_phi, key)) ||
          (!decoder_.empty() && among(generation_defaults, key));
      if (harmless) accept_all(value);  // some are maps (auto_map)
      if (sparse() && key == "qk_head_dim") accept_all(value);
      if (harmless || (deepseek && among(of_deepseek, key)) || (sparse() && among(of_sparse, key)) ||
          (gemma() && among(of_gemma, key)))
        continue;
      if (glm() && among(of_glm, key)) continue;
      const bool nemotron = architecture_->family == Family::nemotron;
      if ((hybrid() && is_gated_delta_field(key)) || (nemotron && is_nemotron_field(key))) {
        accept_all(value);
        continue;
      }
      if (phi && key == "original_max_position_embeddings") {
        accept_all(value);  // read with LongRoPE only
        continue;
      }
      if (architecture_->family == Family::minimax &&
          (among(of_minimax, key) || among(harmless_in_deepseek, key))) {
        accept_all(value);
        continue;
      }
      const bool lists_experts = !deepseek && !gemma() && !glm() && !hybrid() && !nemotron;
      if (architecture_->family != Family::dense && lists_experts && among(of_experts, key)) continue;
      if (!decoder_.empty() && among(beside_vision, key)) continue;
      accept_all(value);
      value.fail(
          "field " + quote(key) + " is not understood for " + model_.architecture +
          "; Orrery reads dense and mixture-of-experts decoders with grouped-query or latent attention (" +
          supported_architectures() + ") and does not guess what other fields change");
    }
  }

  bool config_sound() {
    if (model_.heads % model_.kv_heads != 0) {
      config_.optional("num_key_value_heads")
          .fail("does not divide num_attention_heads (" + std::to_string(model_.heads) + ")");
      return false;
    }
    return model_.layers > 0 && model_.hidden > 0;
  }

  const Yaml config_;
  const std::string& decoder_;  // of a multimodal model: what it is; "" = what the config says
  const Yaml outer_;
  ModelSpec model_;
  const Architecture* architecture_ = nullptr;
  std::vector<std::string> redundant_;
  LayerRules layers_;
};

}  // namespace

ModelSpec read_model_config(const Yaml& config, const std::string& architecture, const Yaml& outer) {
  return ConfigReader(config, architecture, outer).read();
}

}  // namespace orrery
