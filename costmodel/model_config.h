// From the fields of a Hugging Face config.json to shapes. Internal to the model loader.
#pragma once

#include <string>

#include "base/yaml_reader.h"
#include "costmodel/model_spec.h"

namespace orrery {

// `config` is the map of config.json (JSON is read as YAML, so that every field has a place). Reads the
// fields that decide shapes, passes over those known to change neither shapes nor prices, and reports every
// other one. The weights carry the activation type; quantisation is applied afterwards (quantization.h).
//
// The decoder of a multimodal model: `architecture` names it, since its map does not, and `outer` is the
// document around it, where some files keep the type and whether embeddings are tied.
ModelSpec read_model_config(const Yaml& config, const std::string& architecture = "", const Yaml& outer = {});

}  // namespace orrery
