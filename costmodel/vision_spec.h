// The vision encoder of a multimodal model as shapes, and how many tokens an image becomes. Built from the
// `vision_config` of a Hugging Face config.json.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/yaml_reader.h"
#include "costmodel/hardware.h"

namespace orrery {

// By which rule a model's processor turns a size into patches and tokens (image_tokens.h).
enum class ImageRule : std::uint8_t { qwen_vl, llava, pixtral, gemma3, internvl, llava_next };
const char* to_string(ImageRule rule);

struct VisionSpec {
  ImageRule rule = ImageRule::qwen_vl;
  std::int64_t layers = 0, hidden = 0, heads = 0, head_dim = 0, intermediate = 0;
  std::int64_t patch = 14;  // pixels, a side
  std::int64_t channels = 3;
  std::int64_t frames = 1;         // temporal patch: a still image is repeated so many times
  std::int64_t merge = 1;          // merge × merge patches become one token
  std::int64_t out_hidden = 0;     // the language model's width
  std::int64_t merger_hidden = 0;  // width between the two projections of the merger; 0 = one projection
  std::int64_t deepstack = 0;      // more mergers, whose outputs are added inside the language model
  bool gated = false;              // MLP of three matrices (gate, up, down) instead of two
  bool class_token = false;        // one more row per image, dropped before the merger (CLIP)
  std::int64_t position_embeddings = 0;
  std::int64_t window = 0;       // pixels, a side; 0 = every layer attends to the whole image
  std::int64_t full_layers = 0;  // layers that do so although there is a window
  // Sizes: of qwen_vl the least and most pixels after resizing; of the others the side of the square that
  // the encoder takes (pixtral: the longest side).
  std::int64_t min_pixels = 0, max_pixels = 0, image_size = 0;
  std::int64_t tokens_per_image = 0;  // gemma3: after pooling
  // gemma3: crops beside the whole image (mm_processor_kwargs.do_pan_and_scan; off by default).
  bool pan_and_scan = false;
  // internvl: tiles that an image is cut into, at least and at most, and one of the whole beside several.
  std::int64_t least_tiles = 1, most_tiles = 1;
  bool thumbnail = false;
  bool videos = false;   // internvl: frames of one tile (of qwen_vl the rule knows)
  bool scaled = false;   // what a layer's halves give is multiplied by weights (InternViT's ls1, ls2)
  bool qk_norm = false;  // InternViT-6B
  std::vector<std::pair<std::int64_t, std::int64_t>> grids;  // llava_next: width, height of a padded image

  std::int64_t patch_features() const { return channels * frames * patch * patch; }
  // Multiply-accumulate weights and norms, before sharding; `split`: what tensor parallelism shares out.
  std::int64_t parameters() const { return split_parameters() + replicated_parameters(); }
  std::int64_t split_parameters() const;
  std::int64_t replicated_parameters() const;  // patch embedding, positions, norms
};

// The architectures with a vision encoder, and the decoder that each wraps.
struct VisionArchitecture {
  const char* name;  // "Qwen2_5_VLForConditionalGeneration"
  const char* text;  // "Qwen2ForCausalLM"; null: what text_config.model_type says
};
const VisionArchitecture* find_vision_architecture(const std::string& name);

// Reads the `vision_config` of `config` (the whole document, because LLaVA keeps some fields beside it).
// Fields that it does not understand are errors of the document. `text_hidden`: width of the decoder.
VisionSpec read_vision_config(const Yaml& config, const std::string& architecture, std::int64_t text_hidden);

}  // namespace orrery
