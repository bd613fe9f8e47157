// How many tokens an image becomes, and what the encoder computes for it: the rule of each model's
// processor. Sources: the processors as vLLM 0.24.0 calls them (model_executor/models/*.py) and Hugging Face
// transformers, named at each rule in image_tokens.cpp.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "costmodel/vision_spec.h"

namespace orrery {

struct ImageLayout {
  // In the prompt: tokens that the placeholder is expanded to, those of them that hold an embedding, and how
  // many others stand before the first of these.
  std::int32_t tokens = 0, embeddings = 0, lead = 0;
  // For the encoder: `tiles` images of rows × columns patches.
  std::int32_t rows = 0, columns = 0, tiles = 1;
  std::int64_t pixels = 0;  // after resizing, all tiles
};

// internvl: as least_tiles. From one tile on, and of grids as near to the image's shape the one with most
// tiles, however small the image (SGLang; costmodel/image_cuts.h).
constexpr std::int64_t most_of_equals = 0;

// Error: a side of 0, or a shape that the processor refuses.
Result<ImageLayout> lay_out_image(const VisionSpec& vision, std::int64_t width, std::int64_t height);

// The layout of the image with most tokens: what engines size budgets by and profile memory with.
ImageLayout largest_image(const VisionSpec& vision);
// Tokens of the longest video that the engine plans for, 0 when the model takes none. Orrery's traces hold no
// videos, but vLLM's budgets follow the largest item of any modality that is not switched off.
std::int64_t largest_video_tokens(const VisionSpec& vision, const std::string& architecture,
                                  std::int64_t max_model_len);

}  // namespace orrery
