#include "costmodel/vision_spec.h"

#include <algorithm>
#include <array>

#include "base/text.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

constexpr std::array architectures{
    VisionArchitecture{"Qwen2VLForConditionalGeneration", "Qwen2ForCausalLM"},
    VisionArchitecture{"Qwen2_5_VLForConditionalGeneration", "Qwen2ForCausalLM"},
    VisionArchitecture{"Qwen3VLForConditionalGeneration", "Qwen3ForCausalLM"},
    VisionArchitecture{"Qwen3VLMoeForConditionalGeneration", "Qwen3MoeForCausalLM"},
    VisionArchitecture{"Qwen3_5ForConditionalGeneration", "Qwen3_5ForCausalLM"},
    VisionArchitecture{"Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeForCausalLM"},
    VisionArchitecture{"LlavaForConditionalGeneration", nullptr},
    VisionArchitecture{"LlavaNextForConditionalGeneration", nullptr},
    VisionArchitecture{"InternVLChatModel", nullptr},
    VisionArchitecture{"Gemma3ForConditionalGeneration", "Gemma3ForCausalLM"},
};

// Fields that change neither a shape nor a price.
constexpr std::array harmless{
    "model_type",
    "hidden_act",
    "initializer_range",
    "attention_dropout",
    "layer_norm_eps",
    "num_channels",
    "tokens_per_second",
    "spatial_patch_size",
    "rope_theta",
    "projection_dim",
    "vocab_size",
    "torch_dtype",
    "dtype",
    "image_mean",
    "image_std",
    "vision_use_head",
    "transformers_version",
    "initializer_factor",
    "rope_parameters",
    "_attn_implementation_autoset",
};

class VisionReader {
 public:
  VisionReader(const Yaml& config, const std::string& architecture, std::int64_t text_hidden)
      : config_(config), vision_(config.require("vision_config")), architecture_(architecture),
        text_hidden_(text_hidden) {}

  VisionSpec read() {
    if (!vision_.present()) return spec_;
    if (architecture_.starts_with("Qwen")) {
      read_qwen();
    } else if (architecture_.starts_with("Gemma3")) {
      read_siglip();
    } else if (architecture_.starts_with("InternVL")) {
      read_internvit();
    } else if (vision_.optional("model_type").scalar_text() == "pixtral") {
      read_pixtral();
    } else {
      read_clip();
    }
    for (const auto& [key, value] : vision_.entries()) {
      if (std::find(known_.begin(), known_.end(), key) != known_.end() ||
          std::find(harmless.begin(), harmless.end(), key) != harmless.end()) {
        accept_all(value);
        continue;
      }
      accept_all(value);
      value.fail("field " + quote(key) + " of vision_config is not understood for " + architecture_);
    }
    if (spec_.heads > 0 && spec_.hidden % spec_.heads != 0)
      vision_.optional("num_heads").fail("does not divide the encoder's width");
    if (spec_.heads > 0 && spec_.head_dim == 0) spec_.head_dim = spec_.hidden / spec_.heads;
    return spec_;
  }

 private:
  Yaml field(const char* key) {
    known_.emplace_back(key);
    return vision_.optional(key);
  }
  // `fallback` 0 = required.
  std::int64_t positive(const char* key, std::int64_t fallback = 0) {
    const Yaml node = field(key);
    if (!node.present() && fallback == 0) return vision_.require(key).integer(1);
    return node.present() && !node.is_null() ? node.integer(1, 1, 1'000'000'000) : fallback;
  }

  // Qwen2-VL: a plain transformer of width embed_dim; 2.5: windows, gated MLP, RMSNorm; 3: deepstack.
  // Pixel limits: preprocessor_config.json of the published checkpoints (the same for all sizes); the
  // model's config.json does not hold them. mm_processor_kwargs overrides them.
  void read_qwen() {
    spec_.rule = ImageRule::qwen_vl;
    spec_.layers = positive("depth");
    spec_.patch = positive("patch_size", 14);
    spec_.merge = positive("spatial_merge_size", 2);
    spec_.frames = positive("temporal_patch_size", 2);
    spec_.heads = positive("num_heads");
    spec_.channels = positive("in_channels", positive("in_chans", 3));
    if (architecture_.starts_with("Qwen2VL")) {
      spec_.hidden = positive("embed_dim");
      spec_.intermediate = spec_.hidden * positive("mlp_ratio", 4);
      spec_.out_hidden = positive("hidden_size");
    } else {
      spec_.hidden = positive("hidden_size");
      spec_.intermediate = positive("intermediate_size");
      spec_.out_hidden = positive("out_hidden_size");
    }
    spec_.min_pixels = 56 * 56;
    spec_.max_pixels = std::int64_t{28} * 28 * 16384;
    if (architecture_.starts_with("Qwen2_5")) {
      spec_.gated = true;
      spec_.window = positive("window_size", 112);
      const Yaml full = field("fullatt_block_indexes");
      if (full.present()) {
        for (const Yaml& index : full.items()) {
          index.integer(0, 0, spec_.layers - 1);
          ++spec_.full_layers;
        }
      }
    } else if (architecture_.starts_with("Qwen3")) {
      spec_.position_embeddings = positive("num_position_embeddings", 2304);
      const Yaml deep = field("deepstack_visual_indexes");
      if (deep.present()) spec_.deepstack = static_cast<std::int64_t>(deep.items().size());
      spec_.min_pixels = std::int64_t{256} * 256;
      spec_.max_pixels = std::int64_t{4096} * 4096;
    }
    spec_.merger_hidden = spec_.hidden * spec_.merge * spec_.merge;
  }

  // LLaVA-1.5: CLIP, its last layers unused (vision_feature_layer), the class token dropped
  // (vision_feature_select_strategy "default"; vLLM llava.py).
  void read_clip() {
    spec_.rule = ImageRule::llava;
    read_vit("");
    spec_.class_token = true;
    const Yaml layer = config_.optional("vision_feature_layer");
    const std::int64_t used = layer.present() ? layer.integer(-2, -1000, 1000) : -2;
    spec_.layers = used < 0 ? spec_.layers + used + 1 : used + 1;
    if (spec_.layers < 1) layer.fail("names no layer of the encoder");
    const Yaml strategy = config_.optional("vision_feature_select_strategy");
    if (strategy.present()) strategy.choice({"default"});
    spec_.position_embeddings = (spec_.image_size / spec_.patch) * (spec_.image_size / spec_.patch) + 1;
    spec_.merger_hidden = text_hidden_;
    spec_.out_hidden = text_hidden_;
    if (architecture_.starts_with("LlavaNext")) read_grids();
  }

  // LLaVA-NeXT's sizes for padded images, [height, width]; transformers' LlavaNextConfig knows them where the
  // config does not say.
  void read_grids() {
    spec_.rule = ImageRule::llava_next;
    if (vision_.optional("model_type").scalar_text() != "clip_vision_model")
      vision_.optional("model_type").fail("is not supported for LLaVA-NeXT; supported: clip_vision_model");
    const std::int64_t s = spec_.image_size;
    spec_.grids = {{2 * s, s}, {s, 2 * s}, {2 * s, 2 * s}, {s, 3 * s}, {3 * s, s}};
    const Yaml list = config_.optional("image_grid_pinpoints");
    if (!list.present() || list.is_null()) return;
    spec_.grids.clear();
    for (const Yaml& item : list.items()) {
      const std::vector<Yaml> sides = item.items();
      if (sides.size() != 2) {
        item.fail("must be [height, width] in pixels");
        continue;
      }
      spec_.grids.emplace_back(sides[1].integer(s, s, 1 << 20), sides[0].integer(s, s, 1 << 20));
    }
    if (spec_.grids.empty()) list.fail("must hold a size");
  }

  // InternViT and the projector behind its pixel shuffle (vLLM's internvl.py and intern_vit.py).
  void read_internvit() {
    spec_.rule = ImageRule::internvl;
    read_vit("");
    spec_.class_token = spec_.scaled = true;
    if (const Yaml norm = field("qk_normalization"); norm.present()) spec_.qk_norm = norm.boolean(false);
    for (const char* key :
         {"drop_path_rate", "dropout", "norm_type", "qkv_bias", "use_flash_attn", "use_bfloat16"})
      known_.emplace_back(key);
    const auto beside = [&](const char* key, std::int64_t fallback, std::int64_t least) {
      const Yaml node = config_.optional(key);
      return node.present() && !node.is_null() ? node.integer(fallback, least, 4096) : fallback;
    };
    spec_.image_size = beside("force_image_size", spec_.image_size, 1);
    const std::int64_t last = beside("select_layer", -1, -1000);
    spec_.layers = last < 0 ? spec_.layers + last + 1 : last + 1;
    if (spec_.layers < 1) config_.optional("select_layer").fail("names no layer of the encoder");
    const Yaml ratio = config_.optional("downsample_ratio");
    spec_.merge = ratio.present() && ratio.number(0.5, 0, 1) == 1 ? 1 : 2;
    if (ratio.present() && ratio.number(0.5, 0, 1) != 0.5 && spec_.merge == 2)
      ratio.fail("is not supported here; supported: 0.5, 1");
    const Yaml dynamic = config_.optional("dynamic_image_size"), small = config_.optional("use_thumbnail");
    if (!dynamic.present() || dynamic.boolean(true)) {
      spec_.least_tiles = beside("min_dynamic_patch", 1, 1);
      spec_.most_tiles = beside("max_dynamic_patch", 12, 1);
    }
    spec_.thumbnail = small.present() && small.boolean(false);
    const std::string decoder = config_.optional("llm_config").optional("model_type").scalar_text();
    spec_.videos = decoder.starts_with("qwen");  // their tokenisers have a token for it
    spec_.position_embeddings = (spec_.image_size / spec_.patch) * (spec_.image_size / spec_.patch) + 1;
    spec_.merger_hidden = spec_.out_hidden = text_hidden_;
  }

  void read_pixtral() {
    spec_.rule = ImageRule::pixtral;
    read_vit("");
    spec_.gated = true;
    const Yaml head = field("head_dim");
    if (head.present()) spec_.head_dim = head.integer(64, 1, 1024);
    spec_.merger_hidden = text_hidden_;
    spec_.out_hidden = text_hidden_;
    for (const char* key : {"vision_feature_layer", "vision_feature_select_strategy"})
      accept_all(config_.optional(key));
  }

  void read_siglip() {
    spec_.rule = ImageRule::gemma3;
    read_vit("");
    const Yaml tokens = config_.optional("mm_tokens_per_image");
    spec_.tokens_per_image = tokens.present() ? tokens.integer(256, 1, 65536) : 256;
    spec_.position_embeddings = (spec_.image_size / spec_.patch) * (spec_.image_size / spec_.patch);
    spec_.out_hidden = text_hidden_;
  }

  void read_vit(const char*) {
    spec_.layers = positive("num_hidden_layers");
    spec_.hidden = positive("hidden_size");
    spec_.intermediate = positive("intermediate_size");
    spec_.heads = positive("num_attention_heads");
    spec_.patch = positive("patch_size");
    spec_.image_size = positive("image_size");
  }

  const Yaml config_, vision_;
  const std::string& architecture_;
  std::int64_t text_hidden_;
  VisionSpec spec_;
  std::vector<std::string> known_;
};

}  // namespace

const char* to_string(ImageRule rule) {
  switch (rule) {
    case ImageRule::qwen_vl: return "qwen-vl";
    case ImageRule::llava: return "llava";
    case ImageRule::pixtral: return "pixtral";
    case ImageRule::gemma3: return "gemma3";
    case ImageRule::internvl: return "internvl";
    case ImageRule::llava_next: return "llava-next";
  }
  return "?";
}

std::int64_t VisionSpec::split_parameters() const {
  const std::int64_t attention = 4 * hidden * heads * head_dim;
  const std::int64_t mlp = (gated ? 3 : 2) * hidden * intermediate;
  const std::int64_t in = hidden * merge * merge;
  const std::int64_t merger =
      merger_hidden > 0 ? in * merger_hidden + merger_hidden * out_hidden : in * out_hidden;
  return layers * (attention + mlp) + (1 + deepstack) * merger;
}

std::int64_t VisionSpec::replicated_parameters() const {
  return hidden * patch_features() + hidden * position_embeddings + (2 * layers + 1) * hidden;
}

const VisionArchitecture* find_vision_architecture(const std::string& name) {
  for (const VisionArchitecture& a : architectures) {
    if (name == a.name) return &a;
  }
  return nullptr;
}

VisionSpec read_vision_config(const Yaml& config, const std::string& architecture, std::int64_t text_hidden) {
  return VisionReader(config, architecture, text_hidden).read();
}

}  // namespace orrery
