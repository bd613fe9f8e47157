// What an engine does with images: limits, budgets and where they are prepared, after defaults and
// engine_args.
#pragma once

#include <cstdint>
#include <string>

#include "base/yaml_reader.h"
#include "costmodel/figure.h"

namespace orrery {

struct EngineProfile;
struct ModelSpec;
struct ParallelPlan;

struct EncoderSettings {
  // vLLM: embeddings that the encoder may compute in one step, and that its output cache holds. 0 = the model
  // has no encoder, or the engine is told to use none.
  std::int64_t compute_budget = 0, cache_size = 0;
  bool disable_chunked_mm_input = false;
  bool data_parallel = false;   // every rank holds the whole encoder and takes some of the images
  bool skip_profiling = false;  // the memory plan leaves the encoder's activations out
  bool language_model_only = false;
  std::int64_t image_limit = 999;          // a prompt's images
  bool videos = true;                      // planned for (budgets and profiling); traces hold none
  std::int32_t preparers = 1;              // threads of an API process that prepare images
  std::int64_t processor_cache_bytes = 0;  // prepared images that are kept for the next equal one
};

// Costs of preparing images on the host, before a request reaches the engine's core (docs/multimodal.md).
struct ImageCosts {
  Figure<Seconds> per_image, per_megapixel, per_prepared_megapixel;
  Figure<BytesPerSecond> send;  // prepared images from the API process to the core's; absent: takes no time
  bool text_waits = false;      // one pool of threads prepares images and takes text in, in order of arrival
  bool present() const { return per_megapixel.present(); }
};
ImageCosts read_image_costs(const Yaml& node);  // absent node: nothing is present

// True when `name` was one of the arguments about images (vLLM's names) and was applied; changes
// `model.vision` for mm_processor_kwargs. Models without an encoder ignore them all.
bool apply_encoder_argument(const std::string& name, const Yaml& value, EngineProfile& engine,
                            ModelSpec& model);
// Budgets that follow from the model and the token budget (vLLM 0.24: compute_mm_encoder_budget in
// v1/core/encoder_cache_manager.py). Errors: disable_chunked_mm_input with items larger than a step; heads of
// the encoder that tp does not divide.
void resolve_encoder(EngineProfile& engine, const ModelSpec& model, const ParallelPlan& plan,
                     const Yaml& place);

// The same for engines whose encoder runs when a chunk first touches an image (sim/encode_on_touch.h):
// SGLang keeps outputs of `SGLANG_VLM_CACHE_SIZE_MB` (100 MiB; none for Qwen3-VL, whose serving overrides on
// Hopper set 0), TensorRT-LLM those of requests in flight.
void resolve_encoder_on_touch(EngineProfile& engine, const ModelSpec& model, const ParallelPlan& plan,
                              const Yaml& place);

}  // namespace orrery
