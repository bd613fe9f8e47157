#include "costmodel/multimodal_config.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "costmodel/model_config.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

// Fields beside text_config and vision_config that change neither a shape nor a price.
constexpr std::array harmless{
    "_name_or_path",
    "model_type",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "image_token_id",
    "video_token_id",
    "vision_start_token_id",
    "vision_end_token_id",
    "vision_token_id",
    "image_token_index",
    "ignore_index",
    "projector_hidden_act",
    "boi_token_index",
    "eoi_token_index",
    "eos_token_id",
    "pad_token_id",
    "initializer_range",
    "image_seq_length",
    "multimodal_projector_bias",
    "tie_word_embeddings",
    "architectures",
    "text_config",
    "vision_config",
    "quantization_config",
    "mm_tokens_per_image",
    "vision_feature_layer",
    "vision_feature_select_strategy",
    "image_grid_pinpoints",
    "use_image_newline_parameter",
    // InternVL
    "llm_config",
    "downsample_ratio",
    "dynamic_image_size",
    "force_image_size",
    "max_dynamic_patch",
    "min_dynamic_patch",
    "pad2square",
    "ps_version",
    "select_layer",
    "template",
    "use_backbone_lora",
    "use_llm_lora",
    "use_thumbnail",
    "auto_map",
    "hidden_size",
    "output_attentions",
    "system_message",
};

std::string text_architecture(const Yaml& text, const VisionArchitecture& architecture) {
  if (architecture.text != nullptr) return architecture.text;
  const Yaml type = text.optional("model_type");
  const std::string name = type.scalar_text();
  if (name == "llama") return "LlamaForCausalLM";
  if (name == "mistral") return "MistralForCausalLM";
  if (name == "qwen2") return "Qwen2ForCausalLM";
  if (name == "qwen3") return "Qwen3ForCausalLM";
  if (name == "qwen3_moe") return "Qwen3MoeForCausalLM";
  (type.present() ? type : text)
      .fail("the decoder's model_type " + quote(name) +
            " is not supported here; supported: llama, mistral, qwen2, qwen3, qwen3_moe");
  return "";
}

}  // namespace

const VisionArchitecture* vision_architecture_of(const Yaml& config) {
  if (!config.is_map()) return nullptr;
  const Yaml list = config.optional("architectures");
  if (!list.is_list()) return nullptr;
  const std::vector<Yaml> items = list.items();
  return items.size() == 1 ? find_vision_architecture(items[0].scalar_text()) : nullptr;
}

ModelSpec read_multimodal_config(const Yaml& config, const VisionArchitecture& architecture) {
  const bool intern = std::string(architecture.name).starts_with("InternVL");
  const Yaml nested = config.optional(intern ? "llm_config" : "text_config");
  const Yaml text = nested.present() ? nested : config;
  const std::string decoder = text_architecture(text, architecture);
  ModelSpec model;
  if (decoder.empty()) {
    accept_all(config);
    return model;
  }
  model = read_model_config(text, decoder, config);
  if (nested.present()) {
    for (const auto& [key, value] : config.entries()) {
      if (std::find(harmless.begin(), harmless.end(), key) != harmless.end()) continue;
      accept_all(value);
      value.fail("field " + quote(key) + " is not understood for " + architecture.name);
    }
    for (const char* key : harmless) {
      const std::string name = key;
      if (name != "text_config" && name != "llm_config" && name != "vision_config")
        accept_all(config.optional(key));
    }
  }
  model.architecture = architecture.name;
  VisionSpec vision = read_vision_config(config, architecture.name, model.hidden);
  if (vision.out_hidden != model.hidden && vision.out_hidden > 0) {
    config.optional("vision_config")
        .fail("the encoder's output width (" + std::to_string(vision.out_hidden) +
              ") is not the decoder's (" + std::to_string(model.hidden) + ")");
  }
  model.vision = std::make_shared<const VisionSpec>(std::move(vision));
  return model;
}

}  // namespace orrery
