// Hugging Face config.json → ModelSpec. JSON is YAML, so the strict YAML reader gives every mistake its line and column,
// and a field that nobody here understands is an error that names it.
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>

#include "base/files.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "costmodel/figure_reader.h"
#include "costmodel/model_spec.h"
#include "costmodel/profile_folder.h"

namespace orrery {

namespace {

struct Architecture {
  const char* name;
  bool moe, qk_norm, qkv_bias, gpt_oss;
};

constexpr std::array architectures = {
    Architecture{"LlamaForCausalLM", false, false, false, false},  Architecture{"MistralForCausalLM", false, false, false, false},
    Architecture{"Qwen2ForCausalLM", false, false, true, false},   Architecture{"Qwen3ForCausalLM", false, true, false, false},
    Architecture{"Qwen3MoeForCausalLM", true, true, false, false}, Architecture{"MixtralForCausalLM", true, false, false, false},
    Architecture{"GptOssForCausalLM", true, false, true, true},
};

// Fields that change neither a shape nor a byte: training, tokens' numbers, positions' arithmetic.
constexpr const char* harmless[] = {
    "_name_or_path", "model_type", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "initializer_range",
    "initial_context_length", "max_window_layers", "norm_topk_prob", "output_router_logits", "pretraining_tp", "rms_norm_eps",
    "rope_scaling", "rope_theta", "rope_parameters", "router_aux_loss_coef", "swiglu_limit", "transformers_version", "use_cache",
    "experts_per_token", "original_max_position_embeddings", "head_bias", "torch_dtype", "dtype", "hidden_act", "residual_dropout",
    "embd_pdrop", "resid_pdrop", "quantization_config", "partial_rotary_factor", "rope_interleaved", "auto_map"};

// Skips a subtree whose content says nothing about shapes.
void accept(const Yaml& node) {
  if (node.is_map()) {
    for (const auto& [key, value] : node.entries()) accept(value);
  } else if (node.is_list()) {
    for (const Yaml& item : node.items()) accept(item);
  }
}

Quantization read_quantization(const Yaml& node, std::int64_t& block) {
  if (!node.present() || node.is_null()) return Quantization::none;
  accept(node);
  const std::string method = node.optional("quant_method").scalar_text(), algorithm = node.optional("quant_algo").scalar_text();
  if (method == "mxfp4") return Quantization::mxfp4;
  if (method == "fp8") {
    const Yaml sizes = node.optional("weight_block_size");
    if (!sizes.is_list()) return Quantization::fp8_tensor;
    const auto items = sizes.items();
    if (items.size() != 2 || items[0].integer(0) != items[1].integer(1)) {
      sizes.fail("only square weight blocks are supported, such as [128, 128]");
      return Quantization::fp8_block;
    }
    block = items[0].integer(128, 1, 65536);
    return Quantization::fp8_block;
  }
  if (algorithm == "FP8") return Quantization::fp8_tensor;
  if (method == "compressed-tensors") {
    const auto groups = node.optional("config_groups").entries();
    if (groups.size() == 1) {
      const Yaml weights = groups[0].second.optional("weights");
      const std::string strategy = weights.optional("strategy").scalar_text(), type = weights.optional("type").scalar_text();
      if (type == "float" && weights.optional("num_bits").integer(0) == 8) {
        if (strategy == "channel") return Quantization::fp8_channel;
        if (strategy == "tensor") return Quantization::fp8_tensor;
      }
    }
  }
  node.fail("this quantisation is not supported (method " + quote(method.empty() ? algorithm : method) +
            "); supported: fp8 (blocks, tensor, channel), mxfp4; or set deployment.quantization");
  return Quantization::none;
}

DType weight_dtype(Quantization q) {
  switch (q) {
    case Quantization::none: return DType::bf16;
    case Quantization::fp8_block:
    case Quantization::fp8_tensor:
    case Quantization::fp8_channel: return DType::fp8;
    case Quantization::w4a8:
    case Quantization::w4a16:
    case Quantization::int4: return DType::int4;
    case Quantization::mxfp4: return DType::mxfp4;
  }
  return DType::bf16;
}

Bytes scale_bytes(Quantization q, std::int64_t block, std::int64_t rows, std::int64_t columns) {
  const auto up = [](std::int64_t a, std::int64_t b) { return static_cast<double>((a + b - 1) / b); };
  switch (q) {
    case Quantization::fp8_block: return Bytes(4.0 * up(rows, block) * up(columns, block));
    case Quantization::fp8_tensor: return Bytes(4.0);
    case Quantization::fp8_channel: return Bytes(4.0 * static_cast<double>(rows));
    case Quantization::w4a8:
    case Quantization::w4a16:
    case Quantization::int4: return Bytes(2.0 * static_cast<double>(rows) * up(columns, block));
    case Quantization::none:
    case Quantization::mxfp4: return Bytes(0);  // mxfp4: bytes_per_element counts its scales
  }
  return Bytes(0);
}

class Builder {
 public:
  Builder(ModelSpec& model, const Architecture& architecture) : m_(model), a_(architecture) {}

  // gpt-oss quantises its experts only.
  void build(std::int64_t moe_layers, std::int64_t window_layers) {
    if (a_.gpt_oss) {
      add_kind(window_layers, true, sliding_window);
      add_kind(m_.layers - window_layers, true, 0);
    } else {
      add_kind(moe_layers, true, 0);
      add_kind(m_.layers - moe_layers, false, 0);
    }
    m_.global_weights = {plain("embed_tokens", m_.vocabulary, m_.hidden), plain("final_norm", m_.hidden, 1)};
    if (!m_.tied_embeddings) m_.global_weights.push_back(plain("lm_head", m_.vocabulary, m_.hidden));
    for (WeightTensor& w : m_.global_weights) w.per_layer = false;
  }

  std::int64_t sliding_window = 0;

 private:
  WeightTensor plain(const char* name, std::int64_t rows, std::int64_t columns, std::int64_t copies = 1) const {
    WeightTensor w;
    w.name = name;
    w.rows = rows;
    w.columns = columns;
    w.copies = copies;
    return w;
  }
  WeightTensor linear(const char* name, std::int64_t rows, std::int64_t columns, std::int64_t copies = 1) const {
    WeightTensor w = plain(name, rows, columns, copies);
    const bool experts_only = m_.quantization == Quantization::mxfp4;
    if (experts_only && copies == 1) return w;
    w.dtype = weight_dtype(m_.quantization);
    w.scales = scale_bytes(m_.quantization, m_.quantization_block, rows, columns);
    return w;
  }

  void add_kind(std::int64_t count, bool moe, std::int64_t window) {
    if (count == 0) return;
    LayerKind kind;
    kind.count = count;
    kind.moe = moe;
    kind.sliding_window = window;
    auto& w = kind.weights;
    const std::int64_t q = m_.heads * m_.head_dim, kv = m_.kv_heads * m_.head_dim;
    w = {plain("input_norm", m_.hidden, 1), linear("q_proj", q, m_.hidden), linear("k_proj", kv, m_.hidden),
         linear("v_proj", kv, m_.hidden), linear("o_proj", m_.hidden, q), plain("post_norm", m_.hidden, 1)};
    if (m_.qk_norm) w.push_back(plain("qk_norm", 2 * m_.head_dim, 1));
    if (m_.attention_bias) w.push_back(plain("qkv_bias", q + 2 * kv, 1));
    if (m_.attention_bias && !qwen2()) w.push_back(plain("o_bias", m_.hidden, 1));
    if (m_.attention_sinks) w.push_back(plain("sinks", m_.heads, 1));
    if (moe) {
      w.push_back(plain("router", m_.experts, m_.hidden));
      w.push_back(linear("experts.gate_up", 2 * m_.expert_intermediate, m_.hidden, m_.experts));
      w.push_back(linear("experts.down", m_.hidden, m_.expert_intermediate, m_.experts));
      if (a_.gpt_oss) {
        w.push_back(plain("router_bias", m_.experts, 1));
        w.push_back(plain("experts.bias", 2 * m_.expert_intermediate + m_.hidden, 1, m_.experts));
      }
    } else {
      w.push_back(linear("gate_proj", m_.intermediate, m_.hidden));
      w.push_back(linear("up_proj", m_.intermediate, m_.hidden));
      w.push_back(linear("down_proj", m_.hidden, m_.intermediate));
    }
    m_.layer_kinds.push_back(std::move(kind));
  }
  bool qwen2() const { return std::string(a_.name) == "Qwen2ForCausalLM"; }

  ModelSpec& m_;
  const Architecture& a_;
};

const Architecture* read_architecture(const Yaml& c) {
  const Yaml list = c.require("architectures");
  if (!list.present()) return nullptr;
  const auto items = list.items();
  std::vector<std::string> names;
  for (const Architecture& a : architectures) {
    names.emplace_back(a.name);
    if (items.size() == 1 && items[0].scalar_text() == a.name) return &a;
  }
  const std::string found = items.empty() ? "nothing" : items[0].scalar_text();
  list.fail("architecture " + quote(found) + " is not supported" + did_you_mean(found, names) + "; supported: " + join(names, ", "));
  return nullptr;
}

void refuse_windows(const Yaml& c, const Architecture& a) {
  const Yaml window = c.optional("sliding_window"), used = c.optional("use_sliding_window");
  if (a.gpt_oss || !window.present() || window.is_null()) return;
  if (used.present() && !used.boolean(false)) return;
  window.fail("sliding-window attention is supported for GptOssForCausalLM only");
}

std::int64_t read_moe(const Yaml& c, const Architecture& a, ModelSpec& m) {
  if (!a.moe) return 0;
  const bool qwen = std::string(a.name) == "Qwen3MoeForCausalLM";
  m.experts = c.require(qwen ? "num_experts" : "num_local_experts").integer(1, 1, 1 << 16);
  m.experts_per_token = c.require("num_experts_per_tok").integer(1, 1, 1 << 16);
  m.expert_intermediate = qwen ? c.require("moe_intermediate_size").integer(1, 1, 1 << 24) : m.intermediate;
  if (const Yaml shared = c.optional("shared_expert_intermediate_size"); shared.present() && !shared.is_null() && shared.integer(0) != 0) {
    shared.fail("shared experts are not supported for this architecture");
  }
  if (const Yaml dense = c.optional("mlp_only_layers"); dense.present() && !dense.items().empty()) {
    dense.fail("layers without experts in an expert model are not supported");
  }
  if (const Yaml step = c.optional("decoder_sparse_step"); step.present() && step.integer(1) != 1) {
    step.fail("only decoder_sparse_step 1 (experts in every layer) is supported");
  }
  if (m.experts_per_token > m.experts) c.optional("num_experts_per_tok").fail("is more than there are experts");
  return m.layers;
}

ModelSpec read_config(const Yaml& c, const std::string& quantization) {
  ModelSpec m;
  const Architecture* a = read_architecture(c);
  for (const char* name : harmless) accept(c.optional(name));
  constexpr std::int64_t big = 1 << 24;
  m.hidden = c.require("hidden_size").integer(1, 1, big);
  m.layers = c.require("num_hidden_layers").integer(1, 1, 10000);
  m.heads = c.require("num_attention_heads").integer(1, 1, 65536);
  m.kv_heads = c.optional("num_key_value_heads").integer(m.heads, 1, 65536);
  m.head_dim = c.optional("head_dim").integer(m.hidden / m.heads, 1, 65536);
  m.intermediate = c.require("intermediate_size").integer(1, 1, big);
  m.vocabulary = c.require("vocab_size").integer(1, 1, big);
  m.max_positions = c.require("max_position_embeddings").integer(1, 1, std::int64_t{1} << 32);
  m.tied_embeddings = c.optional("tie_word_embeddings").boolean(false);
  if (a == nullptr) return m;
  m.architecture = a->name;
  m.qk_norm = a->qk_norm && c.optional("use_qk_norm").boolean(true);
  const Yaml bias = c.optional("attention_bias");
  m.attention_bias = a->qkv_bias || bias.boolean(false) || c.optional("qkv_bias").boolean(false);
  if (const Yaml mlp = c.optional("mlp_bias"); mlp.boolean(false)) mlp.fail("a bias in the MLP is not supported");
  if (m.heads % m.kv_heads != 0) c.optional("num_key_value_heads").fail("must divide num_attention_heads");
  if (const Yaml act = c.optional("hidden_act"); act.present() && act.scalar_text() != "silu") {
    act.fail("only gated SiLU MLPs are supported, found " + quote(act.scalar_text()));
  }
  refuse_windows(c, *a);
  m.attention_sinks = a->gpt_oss;
  m.quantization = read_quantization(c.optional("quantization_config"), m.quantization_block);
  if (!quantization.empty()) {
    const std::vector<std::string> names = {"bf16", "fp8-block", "fp8-tensor", "fp8-channel", "w4a8", "w4a16", "int4", "mxfp4"};
    const auto it = std::find(names.begin(), names.end(), quantization);
    if (it != names.end()) m.quantization = static_cast<Quantization>(it - names.begin());
  }
  const std::int64_t moe_layers = read_moe(c, *a, m);
  std::int64_t window_layers = 0;
  Builder builder(m, *a);
  if (a->gpt_oss) {
    builder.sliding_window = c.require("sliding_window").integer(128, 1, big);
    for (const Yaml& kind : c.require("layer_types").items()) {
      window_layers += kind.choice({"full_attention", "sliding_attention"}) == 1 ? 1 : 0;
    }
  }
  builder.build(moe_layers, std::min(window_layers, m.layers));
  return m;
}

bool is_path(const std::string& name) { return name.find('/') != std::string::npos || name.ends_with(".json"); }

}  // namespace

Result<ModelSpec> load_model(const std::string& name_or_path, const std::string& folder, const std::string& quantization,
                             const std::string& kv_cache_dtype) {
  namespace fs = std::filesystem;
  std::string path;
  if (is_path(name_or_path)) {
    path = (fs::path(folder) / name_or_path).lexically_normal().string();
  } else {
    ORRERY_TRY(found, find_profile("model_profiles", name_or_path, "model"));
    path = found;
  }
  ORRERY_TRY(document, YamlDocument::load(path));
  const Yaml root = document.root();
  Yaml config = root;
  std::string name = fs::path(path).stem().string();
  if (!is_path(name_or_path)) {
    name = root.require("name").text();
    (void)root.require("description").text();
    (void)read_kind(root);
    (void)read_source(root);
    config = root.require("config");
  } else if (name.ends_with("_config")) {
    name.resize(name.size() - 7);
  } else if (name == "config") {
    name = fs::path(path).parent_path().filename().string();
  }
  ModelSpec m = read_config(config, quantization);
  m.name = name;
  m.source = path;
  m.kv_dtype = kv_cache_dtype == "fp8" ? DType::fp8 : DType::bf16;
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return m;
}

}  // namespace orrery
