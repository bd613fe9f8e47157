#include "costmodel/quantization.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

struct SchemeName {
  Quantization scheme;
  const char* name;
};
constexpr std::array scheme_names{
    SchemeName{Quantization::none, "bf16"},
    SchemeName{Quantization::fp8_block, "fp8-block"},
    SchemeName{Quantization::fp8_tensor, "fp8-tensor"},
    SchemeName{Quantization::fp8_channel, "fp8-channel"},
    SchemeName{Quantization::w4a8, "w4a8"},
    SchemeName{Quantization::w4a16, "w4a16"},
    SchemeName{Quantization::int4, "int4"},
    SchemeName{Quantization::mxfp4, "mxfp4"},
};

constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

// Our tensors and the module names that checkpoints give them, after "model.layers.N.".
struct ModuleName {
  const char* tensor;
  const char* module;
};
constexpr std::array modules{
    ModuleName{"q_proj", "self_attn.q_proj"},
    ModuleName{"k_proj", "self_attn.k_proj"},
    ModuleName{"v_proj", "self_attn.v_proj"},
    ModuleName{"o_proj", "self_attn.o_proj"},
    ModuleName{"q_a_proj", "self_attn.q_a_proj"},
    ModuleName{"q_b_proj", "self_attn.q_b_proj"},
    ModuleName{"kv_a_proj", "self_attn.kv_a_proj_with_mqa"},
    ModuleName{"kv_b_proj", "self_attn.kv_b_proj"},
    ModuleName{"indexer.wq_b", "self_attn.indexer.wq_b"},
    ModuleName{"shared_expert.gate_proj", "mlp.shared_experts.gate_proj"},
    ModuleName{"shared_expert.up_proj", "mlp.shared_experts.up_proj"},
    ModuleName{"shared_expert.down_proj", "mlp.shared_experts.down_proj"},
    ModuleName{"shared_expert.gate_proj", "mlp.shared_expert.gate_proj"},
    ModuleName{"shared_expert.up_proj", "mlp.shared_expert.up_proj"},
    ModuleName{"shared_expert.down_proj", "mlp.shared_expert.down_proj"},
    ModuleName{"state.in_proj", "linear_attn.in_proj_qkvz"},
    ModuleName{"state.in_proj", "linear_attn.in_proj_qkv"},
    ModuleName{"state.in_proj", "linear_attn.in_proj_z"},
    ModuleName{"state.out_proj", "linear_attn.out_proj"},
    ModuleName{"gate_proj", "mlp.gate_proj"},
    ModuleName{"up_proj", "mlp.up_proj"},
    ModuleName{"down_proj", "mlp.down_proj"},
    ModuleName{"router", "mlp.gate"},
    ModuleName{"router", "mlp.router"},
    ModuleName{"router", "block_sparse_moe.gate"},
    ModuleName{"experts.gate_up", "mlp.experts"},
    ModuleName{"experts.down", "mlp.experts"},
    ModuleName{"experts.gate_up", "block_sparse_moe.experts"},
    ModuleName{"experts.down", "block_sparse_moe.experts"},
};

// "model.layers.12.mlp.gate" → "mlp.gate" ("*" counts as a number); "" when it is not a module of a layer.
std::string layer_module(const std::string& pattern) {
  for (const char* prefix : {"model.layers.", "layers."}) {
    if (!pattern.starts_with(prefix)) continue;
    const std::size_t from = std::string(prefix).size(), dot = pattern.find('.', from);
    if (dot == std::string::npos) return "";
    const std::string index = pattern.substr(from, dot - from);
    if (index != "*" && index.find_first_not_of("0123456789") != std::string::npos) return "";
    return pattern.substr(dot + 1);
  }
  return "";
}

bool is_expression(const std::string& pattern) { return pattern.starts_with("re:.*"); }

// "re:.*mlp.gate$" → "mlp.gate", "re:.*self_attn.*" → "self_attn": the shapes of regular expression that
// checkpoints use here.
std::string stripped(const std::string& pattern) {
  if (!is_expression(pattern)) return pattern;
  std::string rest = pattern.substr(5);
  if (rest.ends_with('$')) rest.pop_back();
  if (rest.ends_with(".*")) rest.resize(rest.size() - 2);
  std::erase(rest, '\\');
  return rest;
}

// "mlp.(gate|up)_proj" → "mlp.gate_proj", "mlp.up_proj"; one group at most.
std::vector<std::string> alternatives(const std::string& pattern) {
  const std::size_t open = pattern.find('('), close = pattern.find(')', open);
  if (!is_expression(pattern) || open == std::string::npos || close == std::string::npos) return {pattern};
  std::vector<std::string> all;
  std::size_t from = open + 1;
  while (from <= close) {
    const std::size_t to = std::min(pattern.find('|', from), close);
    all.push_back(pattern.substr(0, open) + pattern.substr(from, to - from) + pattern.substr(close + 1));
    from = to + 1;
  }
  return all;
}

// Whether `name` stands in a module's name as whole parts: "shared_experts" in "mlp.shared_experts.up_proj".
bool part_of(const std::string& name, const std::string& module) {
  return ("." + module + ".").find("." + name + ".") != std::string::npos;
}

bool covers(const std::string& pattern, const std::string& module) {
  const std::string p = stripped(pattern);
  const std::string inner = layer_module(p);
  const std::string& name = inner.empty() ? p : inner;
  if (is_expression(pattern) && pattern.ends_with(".*")) return part_of(name, module);
  if (module == name || module.starts_with(name + ".")) return true;
  return module.ends_with("." + name);  // a bare "gate_proj" or a regular expression's tail
}

bool quantizable(const WeightTensor& t) {
  if (t.columns == 1 || t.name == "router") return false;
  return std::any_of(modules.begin(), modules.end(), [&](const ModuleName& m) { return t.name == m.tensor; });
}

bool kept(const WeightTensor& t, const QuantizationPlan& plan) {
  if (plan.experts_only && !t.name.starts_with("experts.")) return true;
  return std::any_of(modules.begin(), modules.end(), [&](const ModuleName& m) {
    return t.name == m.tensor && std::any_of(plan.kept.begin(), plan.kept.end(),
                                             [&](const std::string& p) { return covers(p, m.module); });
  });
}

// One copy's scales, bytes. fp8: fp32 scales; 4 bits in groups: a 16-bit scale each; mxfp4's scales are in
// its bytes per element.
double scale_bytes(const WeightTensor& t, const QuantizationPlan& plan) {
  switch (plan.scheme) {
    case Quantization::fp8_block:
      return 4.0 * static_cast<double>(ceil_div(t.rows, plan.block) * ceil_div(t.columns, plan.block));
    case Quantization::fp8_tensor: return 4;
    case Quantization::fp8_channel: return 4.0 * static_cast<double>(t.rows);
    case Quantization::w4a8:
    case Quantization::w4a16:
    case Quantization::int4: return 2.0 * static_cast<double>(t.rows * ceil_div(t.columns, plan.block));
    case Quantization::mxfp4:
    case Quantization::none: break;
  }
  return 0;
}

DType stored_type(Quantization scheme, DType activation) {
  switch (scheme) {
    case Quantization::fp8_block:
    case Quantization::fp8_tensor:
    case Quantization::fp8_channel: return DType::fp8;
    case Quantization::w4a8:
    case Quantization::w4a16:
    case Quantization::int4: return DType::int4;
    case Quantization::mxfp4: return DType::mxfp4;
    case Quantization::none: break;
  }
  return activation;
}

// Layers of one kind are priced alike, so a linear layer is left out everywhere or nowhere.
class KeptModules {
 public:
  KeptModules(QuantizationPlan& plan, std::int64_t layers) : plan_(plan), layers_(layers) {}

  void read(const Yaml& list) {
    if (!list.present() || list.is_null()) return;
    for (const Yaml& item : list.items()) {
      const std::string text = item.text();
      const std::vector<std::string> patterns = alternatives(text);
      if (patterns.size() > 1 && std::any_of(patterns.begin(), patterns.end(), known_module_pattern)) {
        plan_.kept.insert(plan_.kept.end(), patterns.begin(), patterns.end());
        continue;
      }
      std::string pattern = text;
      if (!known_module_pattern(pattern)) {
        item.fail("module " + quote(pattern) +
                  " is not one that Orrery knows, so it cannot leave it unquantised");
      }
      const std::string inner = layer_module(pattern);
      const bool linear = inner == "self_attn" || inner == "mlp" || linear_module(inner);
      if (linear && pattern.find('*') == std::string::npos) count(item, inner);
      plan_.kept.push_back(std::move(pattern));
    }
    for (const Counted& c : counted_) {
      if (c.times == layers_) continue;
      c.first.fail("module " + quote(c.module) + " is left unquantised in some layers only (" +
                   std::to_string(c.times) + " of " + std::to_string(layers_) + "), which is not supported");
    }
  }

 private:
  struct Counted {
    std::string module;
    Yaml first;
    std::int64_t times = 0;
  };

  static bool linear_module(const std::string& module) {
    return std::any_of(modules.begin(), modules.end(), [&](const ModuleName& m) {
      return module == m.module && std::string(m.tensor) != "router";
    });
  }

  void count(const Yaml& item, const std::string& module) {
    const auto found =
        std::find_if(counted_.begin(), counted_.end(), [&](const Counted& c) { return c.module == module; });
    if (found != counted_.end()) {
      ++found->times;
    } else {
      counted_.push_back({module, item, 1});
    }
  }

  QuantizationPlan& plan_;
  std::int64_t layers_;
  std::vector<Counted> counted_;
};

void read_fp8(const Yaml& node, std::int64_t layers, QuantizationPlan& plan) {
  if (const Yaml format = node.optional("fmt");
      format.present() && format.text() != "e4m3" && format.text() != "float8_e4m3fn") {
    format.fail("8-bit format " + quote(format.scalar_text()) + " is not supported; supported: e4m3");
  }
  plan.scheme = Quantization::fp8_tensor;
  accept_all(node.optional("scale_fmt"));  // scales that are powers of two: of the same size
  if (const Yaml scheme = node.optional("activation_scheme"); scheme.present())
    scheme.choice({"dynamic", "static"});
  if (const Yaml block = node.optional("weight_block_size"); block.present() && !block.is_null()) {
    const std::vector<Yaml> sides = block.items();
    plan.scheme = Quantization::fp8_block;
    if (sides.size() == 2) plan.block = sides[0].integer(128, 1, 4096);
    if (sides.size() != 2 || sides[1].integer(128, 1, 4096) != plan.block)
      block.fail("only square blocks are supported, as [128, 128]");
  }
  KeptModules(plan, layers).read(node.optional("modules_to_not_convert"));
  KeptModules(plan, layers).read(node.optional("ignored_layers"));
}

// compressed-tensors, "pack-quantized": integers of 4 bits, symmetric, a 16-bit scale for each group of
// inputs, 16-bit activations. False when the group is none of these.
bool read_packed_group(const Yaml& group, QuantizationPlan& plan) {
  const Yaml weights = group.require("weights"), inputs = group.optional("input_activations");
  const Yaml bits = weights.optional("num_bits"), type = weights.optional("type");
  if (!bits.present() || bits.integer() != 4 || type.text() != "int") return false;
  if (inputs.present() && !inputs.is_null())
    inputs.fail("weights of 4 bits are supported with 16-bit activations only: null");
  weights.require("strategy").choice({"group"});
  if (const Yaml symmetric = weights.optional("symmetric"); symmetric.present() && !symmetric.boolean(true))
    symmetric.fail("only symmetric groups are supported: no zero points");
  plan.scheme = Quantization::w4a16;
  plan.block = weights.require("group_size").integer(32, 1, 4096);
  accept_all(weights);
  return true;
}

// compressed-tensors and modelopt: one group of linear layers, 8-bit floats for weights and activations.
void read_groups(const Yaml& node, std::int64_t layers, QuantizationPlan& plan) {
  const auto groups = node.require("config_groups").entries();
  plan.scheme = Quantization::fp8_tensor;
  if (groups.size() > 1)
    groups[1].second.fail("several groups of layers with formats of their own are not supported");
  for (const auto& [name, group] : groups) {
    const bool packed = read_packed_group(group, plan);
    for (const char* side : {"weights", "input_activations"}) {
      if (packed) break;
      const Yaml part = group.require(side);
      const Yaml bits = part.require("num_bits"), type = part.require("type");
      if (bits.present() && bits.integer() != 8)
        bits.fail("only 8-bit floats (fp8) and integers of 4 bits in groups are supported in config_groups");
      if (type.present() && type.text() != "float")
        type.fail("only 8-bit floats (fp8) and integers of 4 bits in groups are supported in config_groups");
      if (const Yaml strategy = part.optional("strategy");
          strategy.present() && std::string(side) == "weights") {
        if (strategy.choice({"tensor", "channel"}) == 1) plan.scheme = Quantization::fp8_channel;
      }
      accept_all(part);
    }
    accept_all(group.optional("targets"));
    group.optional("output_activations");
    group.optional("format");
  }
  KeptModules(plan, layers).read(node.optional("ignore"));
  const Yaml kv = node.optional("kv_cache_scheme");
  plan.fp8_kv_cache = kv.present() && !kv.is_null();
  accept_all(kv);
}

}  // namespace

bool known_module_pattern(const std::string& pattern) {
  const std::string p = stripped(pattern), inner = layer_module(p);
  const std::string& name = inner.empty() ? p : inner;
  if (name == "lm_head" || name.ends_with("embed_tokens") || name.ends_with("norm") ||
      name.ends_with("layernorm"))
    return true;
  if (name == "self_attn" || name == "mlp") return true;
  // Never quantised here (blocks of 8 bits do not fit them).
  for (const char* kept : {"linear_attn.in_proj_ba", "linear_attn.in_proj_a", "linear_attn.in_proj_b",
                           "linear_attn.conv1d", "mlp.shared_expert_gate", "e_score_correction_bias"}) {
    if (name == kept) return true;
  }
  return std::any_of(modules.begin(), modules.end(), [&](const ModuleName& m) {
    const std::string module = m.module;
    return module == name || module.ends_with("." + name) ||
           (is_expression(pattern) && pattern.ends_with(".*") && part_of(name, module));
  });
}

bool named_quantization(const std::string& name, Quantization& scheme) {
  for (const SchemeName& s : scheme_names) {
    if (name != s.name) continue;
    scheme = s.scheme;
    return true;
  }
  return false;
}

std::vector<std::string> quantization_names() {
  std::vector<std::string> names;
  for (const SchemeName& s : scheme_names) names.emplace_back(s.name);
  return names;
}

const char* to_string(Quantization q) {
  for (const SchemeName& s : scheme_names) {
    if (s.scheme == q) return s.name;
  }
  return "?";
}

QuantizationPlan read_quantization_config(const Yaml& node, std::int64_t layers) {
  QuantizationPlan plan;
  if (!node.present() || node.is_null()) return plan;
  const Yaml method = node.optional("quant_method"), algorithm = node.optional("quant_algo");
  const std::string name = method.present() ? method.text() : "";
  if (name == "fp8") {
    read_fp8(node, layers, plan);
  } else if (name == "mxfp4") {
    plan.scheme = Quantization::mxfp4;
    plan.experts_only = true;
    KeptModules(plan, layers).read(node.optional("modules_to_not_convert"));
  } else if (name == "compressed-tensors" ||
             ((name.empty() || name == "modelopt") && algorithm.present() && algorithm.text() == "FP8")) {
    read_groups(node, layers, plan);
    for (const char* harmless :
         {"producer", "format", "quantization_status", "global_compression_ratio", "version"}) {
      accept_all(node.optional(harmless));
    }
  } else {
    node.fail("quantisation method " + quote(name.empty() ? algorithm.scalar_text() : name) +
              " is not supported; supported in a config: fp8 (per tensor, or in blocks), compressed-tensors "
              "and modelopt with "
              "8-bit floats, mxfp4");
    accept_all(node);
  }
  return plan;
}

void apply_quantization(const QuantizationPlan& plan, ModelSpec& model) {
  model.quantization = plan.scheme;
  model.quantization_block = plan.scheme == Quantization::mxfp4 ? 32 : plan.block;
  if (plan.scheme == Quantization::none) return;
  for (LayerKind& kind : model.layer_kinds) {
    for (WeightTensor& t : kind.weights) {
      if (!quantizable(t) || kept(t, plan)) continue;
      t.dtype = stored_type(plan.scheme, model.activation_dtype);
      t.scales = Bytes(scale_bytes(t, plan));
    }
  }
}

}  // namespace orrery
