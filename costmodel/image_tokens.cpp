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

// What is nearest to the image's shape among grids of so many tiles; of two that are as near the later one
// (more tiles), if the image has more than half its pixels (vLLM's transformers_utils/processors/internvl.py,
// `find_closest_aspect_ratio`; grids by their number of tiles). Of equal numbers the order is that of a
// Python set there, which decides only between grids of one shape, of which there is one for each number.
// SGLang takes the later one whatever the image has (its multimodal/processors/internvl.py,
// `dynamic_preprocess`).
std::pair<std::int64_t, std::int64_t> nearest_grid(const VisionSpec& v, std::int64_t width,
                                                   std::int64_t height) {
  const double shape = static_cast<double>(width) / static_cast<double>(height);
  const double area = static_cast<double>(width) * static_cast<double>(height);
  double nearest = -1;
  std::pair<std::int64_t, std::int64_t> best{1, 1};
  for (std::int64_t tiles = std::max<std::int64_t>(1, v.least_tiles); tiles <= v.most_tiles; ++tiles) {
    for (std::int64_t across = 1; across <= tiles; ++across) {
      if (tiles % across != 0) continue;
      const std::int64_t down = tiles / across;
      const double away = std::abs(shape - static_cast<double>(across) / static_cast<double>(down));
      const bool covers = v.least_tiles == most_of_equals ||
                          area > 0.5 * static_cast<double>(v.image_size * v.image_size * tiles);
      if (nearest < 0 || away < nearest || (away == nearest && covers)) best = {across, down};
      if (nearest < 0 || away < nearest) nearest = away;
    }
  }
  return best;
}

// InternVL: tiles of image_size², one of the whole image beside several, merge² patches a token, and a begin
// and an end token around them (`get_image_repl`).
ImageLayout lay_out_internvl(const VisionSpec& v, std::int64_t width, std::int64_t height) {
  const auto [across, down] = nearest_grid(v, width, height);
  const std::int64_t side = v.image_size / v.patch;
  ImageLayout out;
  out.tiles = static_cast<std::int32_t>(across * down);
  if (v.thumbnail && out.tiles != 1) ++out.tiles;
  out.rows = out.columns = static_cast<std::int32_t>(side);
  out.embeddings = out.tiles * static_cast<std::int32_t>(side * side / (v.merge * v.merge));
  out.tokens = out.embeddings + 2;
  out.lead = 1;
  out.pixels = v.image_size * v.image_size * out.tiles;
  return out;
}

// transformers' select_best_resolution: the padded size that keeps most of the image, of equals the one with
// least padding.
std::pair<std::int64_t, std::int64_t> best_grid(const VisionSpec& v, std::int64_t width,
                                                std::int64_t height) {
  std::pair<std::int64_t, std::int64_t> best = v.grids.front();
  std::int64_t kept = 0, wasted = 0;
  for (const auto& [w, h] : v.grids) {
    const double scale = std::min(static_cast<double>(w) / static_cast<double>(width),
                                  static_cast<double>(h) / static_cast<double>(height));
    const auto scaled = [&](std::int64_t side) {
      return static_cast<std::int64_t>(static_cast<double>(side) * scale);
    };
    const std::int64_t keeps = std::min(scaled(width) * scaled(height), width * height);
    const std::int64_t wastes = w * h - keeps;
    if (keeps < kept || (keeps == kept && wastes >= wasted && kept > 0)) continue;
    kept = keeps;
    wasted = wastes;
    best = {w, h};
  }
  return best;
}

// LLaVA-NeXT: the whole image in one square, and the image padded to a grid of squares; of the grid's patches
// those of padding are dropped again and a line break ends every row (vLLM llava_next.py
// `_get_num_unpadded_features`). All of them hold embeddings.
ImageLayout lay_out_llava_next(const VisionSpec& v, std::int64_t width, std::int64_t height) {
  const auto [w, h] = best_grid(v, width, height);
  const std::int64_t side = v.image_size / v.patch, across = w / v.image_size, down = h / v.image_size;
  std::int64_t columns = side * across, rows = side * down;
  const auto shape = [](std::int64_t a, std::int64_t b) {
    return static_cast<double>(a) / static_cast<double>(b);
  };
  // int(round(x, 7)) of the engine: what lies a hair below a whole number counts as it.
  const auto whole = [](double x) { return static_cast<std::int64_t>(std::floor(x + 5e-8)); };
  if (shape(width, height) > shape(columns, rows)) {
    const std::int64_t filled = whole(static_cast<double>(height) * shape(columns, width));
    rows -= (rows - filled) / 2 * 2;
  } else {
    const std::int64_t filled = whole(static_cast<double>(width) * shape(rows, height));
    columns -= (columns - filled) / 2 * 2;
  }
  ImageLayout out;
  out.tiles = static_cast<std::int32_t>(1 + across * down);
  out.rows = out.columns = static_cast<std::int32_t>(side);
  out.tokens = out.embeddings = static_cast<std::int32_t>(side * side + rows * columns + rows);
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
    case ImageRule::internvl: return lay_out_internvl(vision, width, height);
    case ImageRule::llava_next: return lay_out_llava_next(vision, width, height);
  }
  return invalid_input("unknown image rule");
}

namespace {

ImageLayout largest_of_grids(const VisionSpec& v) {
  ImageLayout most;
  for (const auto& [width, height] : v.grids) {
    const ImageLayout each = lay_out_llava_next(v, width, height);
    if (each.embeddings > most.embeddings) most = each;
  }
  return most;
}

}  // namespace

// vLLM's get_image_size_with_most_features of each model. Qwen: the most merged patches that max_pixels
// allows, in the factor pair nearest to a square whose sides differ by at most 200 times.
ImageLayout largest_image(const VisionSpec& v) {
  if (v.rule != ImageRule::qwen_vl) {
    std::int64_t width = v.image_size, height = v.image_size;
    if (v.rule == ImageRule::gemma3) height *= 4;
    if (v.rule == ImageRule::internvl) width *= v.most_tiles;
    if (v.rule == ImageRule::llava_next) return largest_of_grids(v);
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
// video_preprocessor_config.json, size.longest_edge). InternVL: frames of a tile each, as many as the context
// holds beside the largest image (internvl.py get_num_frames_with_most_features). The others take no video.
std::int64_t largest_video_tokens(const VisionSpec& v, const std::string& architecture,
                                  std::int64_t max_model_len) {
  if (v.rule == ImageRule::internvl && v.videos) {
    const ImageLayout image = largest_image(v);
    const std::int64_t frame = image.embeddings / image.tiles;
    return frame * std::max<std::int64_t>(1, (max_model_len - image.embeddings) / frame);
  }
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
