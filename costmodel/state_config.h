// What configs of hybrid models say of their layers: which keep a state, which attend, which are MLPs alone.
// Internal to the reader of configs (costmodel/model_config.cpp).
#pragma once

#include "base/yaml_reader.h"
#include "costmodel/model_layers.h"

namespace orrery {

// Qwen3-Next and Qwen3.5: gated delta nets, every full_attention_interval-th layer attends; a shared expert
// with a gate.
void read_gated_delta(const Yaml& config, ModelSpec& model, LayerRules& rules);

// Nemotron-H: hybrid_override_pattern names each layer, M (Mamba2), * (attention), - (MLP) or E (experts).
void read_nemotron(const Yaml& config, ModelSpec& model, LayerRules& rules);

// A field that may say one thing only; absent or null is that.
void expect(const Yaml& config, const char* key, const std::string& value);

bool is_gated_delta_field(const std::string& key);
bool is_nemotron_field(const std::string& key);

}  // namespace orrery
