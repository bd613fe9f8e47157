// A config.json that wraps a decoder and a vision encoder. Internal to the model loader.
#pragma once

#include "base/yaml_reader.h"
#include "costmodel/model_spec.h"
#include "costmodel/vision_spec.h"

namespace orrery {

// The decoder stands in `text_config`, or beside `vision_config` in older files. Every field that neither
// reader understands is an error of the document.
ModelSpec read_multimodal_config(const Yaml& config, const VisionArchitecture& architecture);

// The architecture that `config` names, or null when it has no vision encoder (or names none at all).
const VisionArchitecture* vision_architecture_of(const Yaml& config);

}  // namespace orrery
