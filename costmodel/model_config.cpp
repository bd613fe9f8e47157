#include "costmodel/model_config.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "costmodel/harmless_fields.h"
#include "costmodel/model_architectures.h"
#include "costmodel/profile_reader.h"

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
    if (config_sound()) build_layers();
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
    model_.heads = positive("num_attention_heads");
    model_.intermediate = positive("intermediate_size");
    model_.vocabulary = positive("vocab_size");
    model_.kv_heads = positive("num_key_value_heads", std::max<std::int64_t>(1, model_.heads));
    model_.head_dim = positive(
        "head_dim", std::max<std::int64_t>(1, model_.hidden / std::max<std::int64_t>(1, model_.heads)));
    if (architecture_->family == Family::deepseek) read_latent();
    model_.tied_embeddings = flag("tie_word_embeddings", false) || outer_flag("tie_word_embeddings");
    model_.activation_dtype = model_.kv_dtype = read_dtype();
    if (const Yaml act = config_.optional("hidden_act"); act.present() && act.text() != "silu") {
      act.fail("activation " + quote(act.scalar_text()) + " is not supported; supported: silu");
    }
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
    model_.qk_norm = architecture_->qk_norm;
    model_.attention_bias = flag("attention_bias", architecture_->qkv_bias) || architecture_->qkv_bias;
    mlp_bias_ = flag("mlp_bias", false);
    output_bias_ = architecture_->family == Family::gpt_oss ||
                   (model_.attention_bias && model_.architecture == "LlamaForCausalLM");
    model_.attention_sinks = architecture_->family == Family::gpt_oss;
    const Yaml window = config_.optional("sliding_window");
    const bool active = flag("use_sliding_window", model_.architecture != "Qwen2ForCausalLM");
    const Yaml types = config_.optional("layer_types");
    const bool has_window = window.present() && !window.is_null() && window.scalar_text() != "0" && active;
    if (architecture_->family == Family::gpt_oss) {
      window_ = has_window ? window.integer(128, 1, 1'000'000'000) : 0;
      // Alternating, beginning with a sliding layer, unless the config lists the layers.
      for (std::int64_t i = 0; i < model_.layers; ++i) sliding_.push_back(i % 2 == 0);
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

  // vLLM 0.24: the layers that the config lists (models/llama.py), or all when it does not say that they
  // differ (arg_utils.py). Qwen's configs say it with max_window_layers, whose default is transformers';
  // above 0 the engine refuses, or does other than the config says (models/qwen2.py, qwen3.py).
  void read_dense_windows(const Yaml& window, const Yaml& types) {
    const std::string& name = model_.architecture;
    const bool qwen = name == "Qwen2ForCausalLM" || name == "Qwen3ForCausalLM";
    const Yaml from = config_.optional("max_window_layers");
    if ((!qwen && name != "MistralForCausalLM") || !decoder_.empty())
      return window.fail("a sliding window is not supported in " + name +
                         (decoder_.empty() ? "" : " beside images") +
                         "; supported: null, or tokens in MistralForCausalLM, Qwen2ForCausalLM, "
                         "Qwen3ForCausalLM and GptOssForCausalLM without images");
    if (qwen && from.integer(28, 0) != 0)
      return (from.present() ? from : window)
          .fail("a sliding window of some layers is not supported in " + name +
                " (nor by vLLM 0.24); "
                "supported: max_window_layers: 0, or use_sliding_window: false");
    window_ = window.integer(0, 2, 1'000'000'000);
    sliding_.assign(static_cast<std::size_t>(model_.layers), true);
    read_layer_types(types);
    if (std::find(sliding_.begin(), sliding_.end(), true) == sliding_.end())
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
    for (std::size_t i = 0; i < items.size(); ++i) sliding_[i] = items[i].choice(names) == 1;
  }

  void read_experts() {
    switch (architecture_->family) {
      case Family::dense: break;
      case Family::qwen_moe:
        model_.experts = positive("num_experts");
        model_.expert_intermediate = positive("moe_intermediate_size");
        model_.experts_per_token = positive("num_experts_per_tok");
        read_dense_layers();
        break;
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
    const std::size_t rule =
        method.present() ? method.choice({"greedy", "group_limited_greedy", "noaux_tc"}) : 0;
    if (chosen > groups || (model_.experts > 0 && model_.experts % groups != 0))
      config_.optional("n_group").fail("must divide n_routed_experts and be at least topk_group");
    if (rule > 0) model_.expert_groups = groups;
    router_bias_ = rule == 2;
    const std::int64_t first = config_.optional("first_k_dense_replace").integer(0, 0, model_.layers);
    const std::int64_t step = positive("moe_layer_freq", 1);
    for (std::int64_t i = 0; i < model_.layers; ++i) dense_.push_back(i < first || i % step != 0);
  }

  // A layer is sparse when (index + 1) is a multiple of decoder_sparse_step and it is not in mlp_only_layers.
  void read_dense_layers() {
    const std::int64_t step = positive("decoder_sparse_step", 1);
    for (std::int64_t i = 0; i < model_.layers; ++i) dense_.push_back((i + 1) % step != 0);
    const Yaml list = config_.optional("mlp_only_layers");
    if (!list.present() || list.is_null()) return;
    for (const Yaml& layer : list.items()) {
      const std::int64_t i = layer.integer(0, 0, model_.layers - 1);
      if (!dense_.empty()) dense_[static_cast<std::size_t>(i)] = true;
    }
  }

  // Longest context, by vLLM's rule (`_get_and_verify_max_len`): llama3 and longrope scale inside
  // max_position_embeddings; yarn multiplies the original length, linear and dynamic the given one.
  void read_positions() {
    model_.max_positions = positive("max_position_embeddings");
    const Yaml nextn = config_.optional("num_nextn_predict_layers");
    model_.mtp_layers = nextn.is_null() ? 0 : nextn.integer(0, 0, 16);
    Yaml scaling = config_.optional("rope_scaling");
    if (const Yaml parameters = config_.optional("rope_parameters"); parameters.present())
      scaling = parameters;
    if (!scaling.present() || scaling.is_null()) return;
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
    } else if (name != "default" && name != "llama3" && name != "longrope" &&
               (name != "mrope" || decoder_.empty())) {
      type.fail("rope scaling " + quote(name) +
                " is not supported; supported: default, llama3, longrope, yarn, linear, dynamic");
    }
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
        Redundant{"partial_rotary_factor", "1.0", "a partial rotary embedding"},
        Redundant{"head_bias", "false", "a bias of lm_head"},
    };
    for (const Redundant& field : fields) {
      const Yaml node = config_.optional(field.field);
      redundant_.emplace_back(field.field);
      if (!node.present() || node.is_null() || node.scalar_text() == field.value) continue;
      accept_all(node);
      node.fail(std::string(field.what) + " are not supported in " + model_.architecture +
                "; supported: " + field.value);
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
    const std::array of_experts = {"num_experts",         "moe_intermediate_size", "num_experts_per_tok",
                                   "decoder_sparse_step", "mlp_only_layers",       "num_local_experts",
                                   "experts_per_token"};
    const std::array of_deepseek = {
        "kv_lora_rank",     "q_lora_rank",      "qk_nope_head_dim",      "qk_rope_head_dim",     "v_head_dim",
        "n_routed_experts", "n_shared_experts", "moe_intermediate_size", "num_experts_per_tok",  "n_group",
        "topk_group",       "topk_method",      "moe_layer_freq",        "first_k_dense_replace"};
    const bool deepseek = architecture_->family == Family::deepseek;
    const auto among = [](const auto& names, const std::string& key) {
      return std::find(names.begin(), names.end(), key) != names.end();
    };
    for (const auto& [key, value] : config_.entries()) {
      if (among(read_elsewhere, key) || among(redundant_, key)) continue;
      const bool harmless = among(harmless_fields, key) || (deepseek && among(harmless_in_deepseek, key)) ||
                            (!decoder_.empty() && among(generation_defaults, key));
      if (harmless) accept_all(value);  // some are maps (auto_map)
      if (harmless || (deepseek && among(of_deepseek, key))) continue;
      if (architecture_->family != Family::dense && !deepseek && among(of_experts, key)) continue;
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

  WeightTensor tensor(const char* name, std::int64_t rows, std::int64_t columns,
                      std::int64_t copies = 1) const {
    WeightTensor t;
    t.name = name;
    t.rows = rows;
    t.columns = columns;
    t.copies = copies;
    t.dtype = model_.activation_dtype;
    return t;
  }

  void add_attention(std::vector<WeightTensor>& w) const {
    if (model_.latent.present()) return add_latent_attention(w);
    const std::int64_t q = model_.heads * model_.head_dim, kv = model_.kv_heads * model_.head_dim;
    w.push_back(tensor("input_norm", model_.hidden, 1));
    w.push_back(tensor("q_proj", q, model_.hidden));
    w.push_back(tensor("k_proj", kv, model_.hidden));
    w.push_back(tensor("v_proj", kv, model_.hidden));
    w.push_back(tensor("o_proj", model_.hidden, q));
    if (model_.attention_bias) {
      w.push_back(tensor("q_proj.bias", q, 1));
      w.push_back(tensor("k_proj.bias", kv, 1));
      w.push_back(tensor("v_proj.bias", kv, 1));
    }
    if (output_bias_) w.push_back(tensor("o_proj.bias", model_.hidden, 1));
    if (model_.attention_sinks) w.push_back(tensor("sinks", model_.heads, 1));
    if (model_.qk_norm) {
      w.push_back(tensor("q_norm", model_.head_dim, 1));
      w.push_back(tensor("k_norm", model_.head_dim, 1));
    }
    w.push_back(tensor("post_norm", model_.hidden, 1));
  }

  void add_latent_attention(std::vector<WeightTensor>& w) const {
    const LatentAttention& a = model_.latent;
    const std::int64_t queries = model_.heads * (a.key_dim + a.rotary_dim);
    w.push_back(tensor("input_norm", model_.hidden, 1));
    if (a.query_rank > 0) {
      w.push_back(tensor("q_a_proj", a.query_rank, model_.hidden));
      w.push_back(tensor("q_a_norm", a.query_rank, 1));
      w.push_back(tensor("q_b_proj", queries, a.query_rank));
    } else {
      w.push_back(tensor("q_proj", queries, model_.hidden));
    }
    w.push_back(tensor("kv_a_proj", a.rank + a.rotary_dim, model_.hidden));
    w.push_back(tensor("kv_a_norm", a.rank, 1));
    w.push_back(tensor("kv_b_proj", model_.heads * (a.key_dim + a.value_dim), a.rank));
    w.push_back(tensor("o_proj", model_.hidden, model_.heads * a.value_dim));
    w.push_back(tensor("post_norm", model_.hidden, 1));
  }

  void add_mlp(std::vector<WeightTensor>& w, bool moe) const {
    if (!moe) {
      w.push_back(tensor("gate_proj", model_.intermediate, model_.hidden));
      w.push_back(tensor("up_proj", model_.intermediate, model_.hidden));
      w.push_back(tensor("down_proj", model_.hidden, model_.intermediate));
      if (mlp_bias_) {
        w.push_back(tensor("gate_proj.bias", model_.intermediate, 1));
        w.push_back(tensor("up_proj.bias", model_.intermediate, 1));
        w.push_back(tensor("down_proj.bias", model_.hidden, 1));
      }
      return;
    }
    const std::int64_t inner = model_.expert_intermediate;
    w.push_back(tensor("router", model_.experts, model_.hidden));
    w.push_back(tensor("experts.gate_up", 2 * inner, model_.hidden, model_.experts));
    w.push_back(tensor("experts.down", model_.hidden, inner, model_.experts));
    if (const std::int64_t shared = model_.shared_expert_intermediate; shared > 0) {
      w.push_back(tensor("shared_expert.gate_proj", shared, model_.hidden));
      w.push_back(tensor("shared_expert.up_proj", shared, model_.hidden));
      w.push_back(tensor("shared_expert.down_proj", model_.hidden, shared));
    }
    if (router_bias_) w.push_back(tensor("router.bias", model_.experts, 1));
    if (architecture_->family == Family::gpt_oss) {
      w.push_back(tensor("router.bias", model_.experts, 1));
      w.push_back(tensor("experts.gate_up.bias", 2 * inner, 1, model_.experts));
      w.push_back(tensor("experts.down.bias", model_.hidden, 1, model_.experts));
    }
  }

  void build_layers() {
    for (std::int64_t i = 0; i < model_.layers; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const bool moe = model_.experts > 0 && (dense_.empty() || !dense_[at]);
      const std::int64_t window = !sliding_.empty() && sliding_[at] ? window_ : 0;
      const auto same =
          std::find_if(model_.layer_kinds.begin(), model_.layer_kinds.end(),
                       [&](const LayerKind& k) { return k.moe == moe && k.sliding_window == window; });
      model_.kind_of_layer.push_back(static_cast<std::uint8_t>(same - model_.layer_kinds.begin()));
      if (same != model_.layer_kinds.end()) {
        ++same->count;
        continue;
      }
      LayerKind kind;
      kind.count = 1;
      kind.moe = moe;
      kind.sliding_window = window;
      add_attention(kind.weights);
      add_mlp(kind.weights, moe);
      model_.layer_kinds.push_back(std::move(kind));
    }
    model_.global_weights.push_back(tensor("embed_tokens", model_.vocabulary, model_.hidden));
    if (!model_.tied_embeddings)
      model_.global_weights.push_back(tensor("lm_head", model_.vocabulary, model_.hidden));
    model_.global_weights.push_back(tensor("final_norm", model_.hidden, 1));
    for (WeightTensor& t : model_.global_weights) t.per_layer = false;
  }

  const Yaml config_;
  const std::string& decoder_;  // of a multimodal model: what it is; "" = what the config says
  const Yaml outer_;
  ModelSpec model_;
  const Architecture* architecture_ = nullptr;
  bool mlp_bias_ = false, output_bias_ = false, router_bias_ = false;
  std::int64_t window_ = 0;
  std::vector<std::string> redundant_;
  std::vector<bool> sliding_, dense_;  // per layer; empty = none
};

}  // namespace

ModelSpec read_model_config(const Yaml& config, const std::string& architecture, const Yaml& outer) {
  return ConfigReader(config, architecture, outer).read();
}

}  // namespace orrery
