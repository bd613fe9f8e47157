// What engines do with Gemma that no field of the model says.
#pragma once

#include "costmodel/engine_profile.h"
#include "costmodel/model_spec.h"
#include "costmodel/parallel_plan.h"

namespace orrery {

inline bool is_gemma_3(const ModelSpec& model) { return model.output_norms && model.qk_norm; }

// SGLang 0.5.23: Gemma 3's embedding is torch's own, whole on every rank, and the head is the same tensor
// (models/gemma3_causal.py, Gemma3TextScaledWordEmbedding).
inline bool keeps_whole_vocabulary(const ModelSpec& model, const EngineProfile& engine) {
  return engine.engine == "sglang" && is_gemma_3(model);
}

// GPUs that share out the embedding's rows.
inline std::int64_t embedding_ranks(const ModelSpec& model, const EngineProfile& engine,
                                    const ParallelPlan& plan) {
  return keeps_whole_vocabulary(model, engine) ? 1 : std::int64_t{plan.tp} * plan.cp;
}

inline bool is_gemma_3_with_images(const ModelSpec& model) {
  return model.architecture == "Gemma3ForConditionalGeneration";
}

// TensorRT-LLM's attn_backend, where it is not the engine's own.
inline bool attends_by_flashinfer(const EngineProfile& engine) {
  return engine.engine == "tensorrt-llm" && engine.settings.options.has("attn_backend");
}

// A model with an encoder, served without images. SGLang 0.5.23 leaves Gemma 3's out unless
// --enable-multimodal asks for them, and any model's where it is false (configs/model_config.py,
// mm_disabled_models); its FlashAttention sees them causally. TensorRT-LLM serves Gemma 3's with
// attn_backend: FLASHINFER, which takes masks of their own (models/modeling_gemma3vl.py, Gemma3VLM).
inline bool serves_text_only(const ModelSpec& model, const EngineProfile& engine) {
  if (engine.engine == "vllm" || model.vision == nullptr) return false;
  if (engine.typed) {
    const auto images = engine.typed->roles.find("images");
    const NamedOptions& options = engine.settings.options;
    if (images != engine.typed->roles.end() && options.has(images->second))
      return !options.flag(images->second);
  }
  return is_gemma_3_with_images(model) && !attends_by_flashinfer(engine);
}

}  // namespace orrery
