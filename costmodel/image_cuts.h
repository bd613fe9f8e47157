// How engines cut a model's images that do not leave it to the checkpoint.
#pragma once

#include <string>

#include "base/yaml_reader.h"
#include "costmodel/model_spec.h"

namespace orrery {

// Of engines whose scheduler does not ask for the encoder: writes into the model what SGLang does by itself,
// and refuses what an engine has no model file for.
void cut_images(ModelSpec& model, const std::string& engine, const Yaml& place);

}  // namespace orrery
