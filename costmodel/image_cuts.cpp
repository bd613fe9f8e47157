#include "costmodel/image_cuts.h"

#include <memory>

#include "costmodel/image_tokens.h"

namespace orrery {

// SGLang 0.5.23 cuts InternVL's images itself (multimodal/processors/internvl.py,
// `process_qwen_mm_data_async`): up to 12 tiles of 448 and always one of the whole beside several, whatever
// the checkpoint says. Over other decoders than Qwen's (and InternLM2, gpt-oss) it does not have the model
// (models/internvl.py), nor LLaVA-NeXT in transformers' form. TensorRT-LLM's processor of LLaVA-NeXT is
// transformers' (modeling_llava_next.py of autumn 2025: `unpad_image`, a line break for each row); InternVL
// it has no model file for.
void cut_images(ModelSpec& model, const std::string& engine, const Yaml& place) {
  if (model.vision == nullptr) return;
  const ImageRule rule = model.vision->rule;
  const bool sglang = engine == "sglang";
  if (sglang ? rule == ImageRule::llava_next : rule == ImageRule::internvl)
    place.fail(engine + " has no model file for " + model.architecture + "; modelled on vllm" +
               (sglang ? " and tensorrt-llm" : " and sglang"));
  if (!sglang || rule != ImageRule::internvl) return;
  VisionSpec vision = *model.vision;
  if (vision.image_size != 448)
    place.fail("SGLang cuts images of " + model.architecture +
               " into tiles of 448 pixels, and this encoder's are " + std::to_string(vision.image_size));
  if (!vision.videos)  // of Qwen's decoders alone
    place.fail("SGLang has " + model.architecture + " over Qwen2, Qwen3 and Qwen3-MoE decoders only");
  vision.least_tiles = most_of_equals;
  vision.most_tiles = 12;
  vision.thumbnail = true;
  model.vision = std::make_shared<const VisionSpec>(std::move(vision));
}

}  // namespace orrery
