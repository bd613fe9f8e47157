#include "costmodel/image_tokens.h"

#include <algorithm>
#include <cmath>
#include <string>

namespace orrery {

namespace {

std::string size_text(std::int64_t width, std::int64_t height) {
  return std::to_string(width) + " × " + std::to_string(height);
}

// Python's round(a / b): halves go to the even integer.
std::int64_t round_half_even(std::int64_t a, std::int64_t b) {
  const std::int64_t quotient = a / b, rest = a % b;
  if (2 * rest > b || (2 * rest == b && quotient % 2 != 0)) return quotient + 1;
  return quotient;
}

// smart_resize of transformers' models/qwen2_vl/image_processing_qwen2_vl.py: both sides to multiples of
// patch · merge, the area into [min_pixels, max_pixels], the shape kept as far as that allows.
Result<ImageLayout> lay_out_qwen(const VisionSpec& v, std::int64_t width, std::int64_t height) {
  constexpr std::int64_t steepest = 200;
  if (std::max(width, height) > steepest * std::min(width, height)) {
    return invalid_input("an image of " + size_text(width, height) +
                         " pixels is refused by the model's processor: one side is more than 200 times the "
                         "other");
  }
  const std::int64_t unit = v.patch * v.merge;
  std::int64_t w = round_half_even(width, unit) * unit, h = round_half_even(height, unit) * unit;
  const double area = static_cast<double>(width) * static_cast<double>(height);
  const auto units = [&](double side) { return static_cast<std::int64_t>(side / static_cast<double>(unit)); };
  if (w * h > v.max_pixels) {
    const double beta = std::sqrt(area / static_cast<double>(v.max_pixels));
    w = std::max(unit, units(static_cast<double>(width) / beta) * unit);
    h = std::max(unit, units(static_cast<double>(height) / beta) * unit);
  } else if (w * h < v.min_pixels) {
    const double beta = std::sqrt(static_cast<double>(v.min_pixels) / area);
    const auto up = [&](std::int64_t side) {
      return static_cast<std::int64_t>(
                 std::ceil(static_cast<double>(side) * beta / static_cast<double>(unit))) *
             unit;
    };
    w = up(width);
    h = up(height);
  }
  ImageLayout out;
  out.rows = static_cast<std::int32_t>(h / v.patch);
  out.columns = static_cast<std::int32_t>(w / v.patch);
  out.tokens = out.embeddings = static_cast<std::int32_t>((h / unit) * (w / unit));
  out.pixels = w * h;
  return out;
}

// A square of image_size, whatever the image (transformers' CLIPImageProcessor; vLLM clip.py
// CLIPEncoderInfo: (336 / 14)² = 576, the class token dropped).
ImageLayout lay_out_square(const VisionSpec& v) {
  const std::int64_t side = v.image_size / v.patch;
  ImageLayout out;
  out.rows = out.columns = static_cast<std::int32_t>(side);
  out.tokens = out.embeddings = static_cast<std::int32_t>(side * side);
  out.pixels = v.image_size * v.image_size;
  return out;
}

// vLLM pixtral.py PixtralHFEncoderInfo.get_patch_grid_size: shrunk into image_size², then patches, the last
// of a row or column in part. The prompt holds a break after every row and an end after the last.
ImageLayout lay_out_pixtral(const VisionSpec& v, std::int64_t width, std::int64_t height) {
  const double ratio = static_cast<double>(std::max(width, height)) / static_cast<double>(v.image_size);
  if (ratio > 1) {
    width = static_cast<std::int64_t>(std::floor(static_cast<double>(width) / ratio));
    height = static_cast<std::int64_t>(std::floor(static_cast<double>(height) / ratio));
  }
  const std::int64_t rows = (std::max<std::int64_t>(1, height) - 1) / v.patch + 1;
  const std::int64_t columns = (std::max<std::int64_t>(1, width) - 1) / v.patch + 1;
  ImageLayout out;
  out.rows = static_cast<std::int32_t>(rows);
  out.columns = static_cast<std::int32_t>(columns);
  out.embeddings = static_cast<std::int32_t>(rows * columns);
  out.tokens = static_cast<std::int32_t>(rows * (columns + 1));
  out.pixels = rows * columns * v.patch * v.patch;
  return out;
}

// transformers' Gemma3ImageProcessor.pan_and_scan with its published limits.
std::int64_t crops_of(std::int64_t width, std::int64_t height) {
  constexpr std::int64_t least_crop = 256, most_crops = 4;
  constexpr double least_ratio = 1.2;
  const std::int64_t longer = std::max(width, height), shorter = std::min(width, height);
  const double ratio = static_cast<double>(longer) / static_cast<double>(shorter);
  if (ratio < least_ratio) return 0;
  std::int64_t crops = std::min(longer / least_crop, static_cast<std::int64_t>(std::floor(ratio + 0.5)));
  crops = std::min(most_crops, std::max<std::int64_t>(2, crops));
  const std::int64_t crop = (longer + crops - 1) / crops;
  return std::min(crop, shorter) < least_crop ? 0 : crops;
}

// Each square becomes two line breaks, a begin and an end token around tokens_per_image embeddings
// (transformers' Gemma3Processor.full_image_sequence: "\n\n", <start_of_image>, soft tokens, <end_of_image>,
// "\n\n"). With crops a sentence of 15 words stands between them (vLLM gemma3_mm.py get_image_repl); its
// tokens are counted as its words, which the tokeniser was not asked about.
ImageLayout lay_out_gemma(const VisionSpec& v, std::int64_t width, std::int64_t height) {
  constexpr std::int32_t around = 4, lead = 2, sentence = 15, sentence_lead = 5;
  const std::int64_t crops = v.pan_and_scan ? crops_of(width, height) : 0;
  ImageLayout out;
  out.tiles = static_cast<std::int32_t>(1 + crops);
  out.rows = out.columns = static_cast<std::int32_t>(v.image_size / v.patch);
  out.embeddings = static_cast<std::int32_t>(v.tokens_per_image) * out.tiles;
  out.tokens = out.embeddings + around * out.tiles + (crops > 0 ? sentence : 0);
  out.lead = lead + (crops > 0 ? sentence_lead : 0);
  out.pixels = v.image_size * v.image_size * out.tiles;
  return out;
}

}  // namespace

Result<ImageLayout> lay_out_image(const VisionSpec& vision, std::int64_t width, std::int64_t height) {
  if (width < 1 || height < 1)
    return invalid_input("an image of " + size_text(width, height) + " pixels has no area");
  switch (vision.rule) {
    case ImageRule::qwen_vl: return lay_out_qwen(vision, width, height);
    case ImageRule::llava: return lay_out_square(vision);
    case ImageRule::pixtral: return lay_out_pixtral(vision, width, height);
    case ImageRule::gemma3: return lay_out_gemma(vision, width, height);
  }
  return invalid_input("unknown image rule");
}

// vLLM's get_image_size_with_most_features of each model. Qwen: the most merged patches that max_pixels
// allows, in the factor pair nearest to a square whose sides differ by at most 200 times.
ImageLayout largest_image(const VisionSpec& v) {
  if (v.rule != ImageRule::qwen_vl) {
    std::int64_t width = v.image_size, height = v.image_size;
    if (v.rule == ImageRule::gemma3) height *= 4;
    return lay_out_image(v, width, height).value();
  }
  const std::int64_t unit = v.patch * v.merge;
  for (std::int64_t n = v.max_pixels / (unit * unit); n > 0; --n) {
    auto low = static_cast<std::int64_t>(std::sqrt(static_cast<double>(n)));
    while (n % low != 0) --low;
    if (n / low <= 200 * low) return lay_out_qwen(v, unit * (n / low), unit * low).value();
  }
  return {};
}

// Qwen2-VL and 2.5: frames in pairs at the largest image's size, as many as max_model_len and 14 frames allow
// (qwen2_vl.py get_max_video_tokens, _MAX_FRAMES_PER_VIDEO). Qwen3-VL: one pair of frames at the video
// processor's largest size, 25,165,824 pixels over two frames (qwen3_vl.py get_max_video_tokens;
// video_preprocessor_config.json, size.longest_edge). The others take no video.
std::int64_t largest_video_tokens(const VisionSpec& v, const std::string& architecture,
                                  std::int64_t max_model_len) {
  if (v.rule != ImageRule::qwen_vl) return 0;
  if (architecture.starts_with("Qwen3")) {
    constexpr std::int64_t video_pixels = 25'165'824;
    VisionSpec frame = v;
    frame.max_pixels = video_pixels / v.frames;
    return largest_image(frame).tokens;
  }
  constexpr std::int64_t most_frames = 14;
  const std::int64_t pair = largest_image(v).tokens;
  // A frame more than fits is tried first; an odd one is padded to a pair.
  std::int64_t frames = 1;
  while ((frames + 1 + (frames + 1) % v.frames) / v.frames * pair <= max_model_len && frames < most_frames)
    ++frames;
  frames = std::max<std::int64_t>(1, frames);
  return std::max<std::int64_t>(1, (frames + frames % v.frames) / v.frames) * pair;
}

}  // namespace orrery
