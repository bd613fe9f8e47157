#include "costmodel/encoder_settings.h"

#include <algorithm>
#include <memory>

#include "costmodel/engine_profile.h"
#include "costmodel/gemma_rules.h"
#include "costmodel/image_tokens.h"
#include "costmodel/model_spec.h"
#include "costmodel/parallel_plan.h"
#include "costmodel/profile_reader.h"

namespace orrery {

namespace {

// {image: 2, video: 0} or {image: {count: 2, …}}; sizes of dummies change the profiling only, and are not
// read.
void apply_limits(const Yaml& value, EncoderSettings& s) {
  for (const auto& [modality, entry] : value.entries()) {
    Yaml count = entry;
    if (entry.is_map()) {
      count = entry.require("count");
      accept_all(entry);
    }
    const std::int64_t limit = count.present() ? count.integer(999, 0, 1'000'000) : 999;
    if (modality == "image")
      s.image_limit = limit;
    else if (modality == "video")
      s.videos = limit > 0;
    else if (modality != "audio")
      entry.fail("unknown modality; known: image, video, audio");
  }
}

void apply_processor(const Yaml& value, ModelSpec& model) {
  VisionSpec vision = *model.vision;
  for (const auto& [key, entry] : value.entries()) {
    if (key == "min_pixels" && vision.rule == ImageRule::qwen_vl)
      vision.min_pixels = entry.integer(vision.min_pixels, 1, 1'000'000'000);
    else if (key == "max_pixels" && vision.rule == ImageRule::qwen_vl)
      vision.max_pixels = entry.integer(vision.max_pixels, 1, 1'000'000'000);
    else if (key == "do_pan_and_scan" && vision.rule == ImageRule::gemma3)
      vision.pan_and_scan = entry.boolean(false);
    else {
      accept_all(entry);
      entry.fail("this part of mm_processor_kwargs is not modelled for " + model.architecture +
                 "; modelled: min_pixels and max_pixels of Qwen-VL, do_pan_and_scan of Gemma 3");
    }
  }
  if (vision.rule == ImageRule::qwen_vl) {
    const std::int64_t unit = vision.patch * vision.merge;
    if (vision.max_pixels < std::max(vision.min_pixels, unit * unit))
      value.fail("max_pixels must be at least min_pixels and one merged patch");
  }
  model.vision = std::make_shared<const VisionSpec>(std::move(vision));
}

std::int64_t largest_item(const EncoderSettings& s, const ModelSpec& model, std::int64_t max_model_len) {
  std::int64_t most = s.image_limit > 0 ? largest_image(*model.vision).embeddings : 0;
  if (s.videos) most = std::max(most, largest_video_tokens(*model.vision, model.architecture, max_model_len));
  return most;
}

}  // namespace

ImageCosts read_image_costs(const Yaml& node) {
  ImageCosts costs;
  if (!node.present()) return costs;
  costs.per_image = read_figure<Seconds>(node.require("per_image"), true);
  costs.per_megapixel = read_figure<Seconds>(node.require("per_megapixel"), true);
  costs.per_prepared_megapixel = read_figure<Seconds>(node.require("per_prepared_megapixel"), true);
  if (const Yaml send = node.optional("send"); send.present()) costs.send = read_figure<BytesPerSecond>(send);
  costs.text_waits = node.optional("text_waits").boolean(false);
  return costs;
}

bool apply_encoder_argument(const std::string& name, const Yaml& value, EngineProfile& engine,
                            ModelSpec& model) {
  EncoderSettings& s = engine.settings.encoder;
  const bool known = name == "disable_chunked_mm_input" || name == "mm_encoder_tp_mode" ||
                     name == "skip_mm_profiling" || name == "limit_mm_per_prompt" ||
                     name == "mm_processor_kwargs" || name == "mm_processor_cache_gb" ||
                     name == "language_model_only" || name == "renderer_num_workers";
  if (!known) return false;
  if (model.vision == nullptr) {
    accept_all(value);
    engine.ignored_args.push_back(name);
    return true;
  }
  if (name == "disable_chunked_mm_input")
    s.disable_chunked_mm_input = value.boolean(false);
  else if (name == "mm_encoder_tp_mode")
    s.data_parallel = value.choice({"weights", "data"}) == 1;
  else if (name == "skip_mm_profiling")
    s.skip_profiling = value.boolean(false);
  else if (name == "limit_mm_per_prompt")
    apply_limits(value, s);
  else if (name == "mm_processor_kwargs")
    apply_processor(value, model);
  else if (name == "mm_processor_cache_gb")
    s.processor_cache_bytes = static_cast<std::int64_t>(value.number(4, 0, 1e6) * 1024 * 1024 * 1024);
  else if (name == "renderer_num_workers")
    s.preparers = static_cast<std::int32_t>(value.integer(1, 1, 1024));
  else if (value.boolean(false))
    s.language_model_only = true;
  return true;
}

void resolve_encoder(EngineProfile& engine, const ModelSpec& model, const ParallelPlan& plan,
                     const Yaml& place) {
  if (model.vision == nullptr) return;
  EncoderSettings& s = engine.settings.encoder;
  if (serves_image_prefixes(model, engine)) s.disable_chunked_mm_input = true;  // whatever was asked
  if (s.language_model_only) {
    s.image_limit = 0;
    s.videos = false;
  }
  if (s.preparers > 1 && s.processor_cache_bytes > 0) {
    place.fail(
        "engine_args.renderer_num_workers above 1 needs engine_args.mm_processor_cache_gb: 0, as the cache "
        "of "
        "prepared images is one thread's (vLLM refuses it too)");
  }
  const VisionSpec& vision = *model.vision;
  if (!s.data_parallel && vision.heads % plan.tp != 0) {
    place.fail("the vision encoder's heads (" + std::to_string(vision.heads) +
               ") are not divisible by tp = " + std::to_string(plan.tp) +
               "; engine_args.mm_encoder_tp_mode: data keeps the encoder whole on every rank");
  }
  const std::int64_t item = largest_item(s, model, engine.settings.max_model_len);
  if (item == 0) return;
  const std::int64_t tokens = engine.settings.max_num_batched_tokens;
  if (s.disable_chunked_mm_input && item > tokens) {
    place.fail("disable_chunked_mm_input: the largest item (" + std::to_string(item) +
               " embeddings) is larger than max_num_batched_tokens (" + std::to_string(tokens) +
               "); raise it, or limit_mm_per_prompt: {video: 0}");
  }
  s.compute_budget = s.cache_size = std::max(tokens, item);
}

void resolve_encoder_on_touch(EngineProfile& engine, const ModelSpec& model, const ParallelPlan& plan,
                              const Yaml& place) {
  if (model.vision == nullptr) return;
  const VisionSpec& vision = *model.vision;
  if (vision.heads % plan.tp != 0) {
    place.fail("the vision encoder's heads (" + std::to_string(vision.heads) +
               ") are not divisible by tp = " + std::to_string(plan.tp));
  }
  EncoderSettings& s = engine.settings.encoder;
  s.videos = false;
  if (serves_text_only(model, engine)) {
    s.image_limit = 0;
    return;
  }
  s.skip_profiling = true;  // neither profiles the encoder before it sizes its pool
  s.compute_budget = 1'000'000'000;
  const bool qwen3 = model.architecture.starts_with("Qwen3");
  if (engine.engine != "sglang" || qwen3) return;
  constexpr std::int64_t cache_bytes = 100 * 1024 * 1024;
  s.cache_size = cache_bytes / (2 * vision.out_hidden * (1 + vision.deepstack));
}

}  // namespace orrery
