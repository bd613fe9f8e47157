// How a model's weights are stored: what its config says, or what the scenario asks for. Internal to the
// loader.
#pragma once

#include <string>
#include <vector>

#include "base/yaml_reader.h"
#include "costmodel/model_spec.h"

namespace orrery {

struct QuantizationPlan {
  Quantization scheme = Quantization::none;
  std::int64_t block = 128;       // fp8-block: side of a square; groups: elements that share a scale
  bool experts_only = false;      // mxfp4 checkpoints of gpt-oss
  std::vector<std::string> kept;  // modules left in the activation type, as the config names them
  bool fp8_kv_cache = false;      // the checkpoint carries scales for an 8-bit KV cache
};

// Reads `quantization_config` of a model of so many layers; problems go to the document. An absent handle
// means none.
QuantizationPlan read_quantization_config(const Yaml& node, std::int64_t layers);

// "bf16", "fp8-block", …: the names of interfaces §3. False for an unknown name.
bool named_quantization(const std::string& name, Quantization& scheme);
std::vector<std::string> quantization_names();

// Changes the dtype and scales of every weight of a linear layer that the plan does not keep. Embeddings,
// norms, biases, the router and lm_head stay: vLLM quantises linear layers only, and checkpoints keep the
// router.
void apply_quantization(const QuantizationPlan& plan, ModelSpec& model);

// The modules that this model's tensors are known by, for checking `modules_to_not_convert`.
bool known_module_pattern(const std::string& pattern);

}  // namespace orrery
