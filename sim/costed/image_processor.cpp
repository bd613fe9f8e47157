#include "sim/costed/image_processor.h"

#include "costmodel/image_tokens.h"

namespace orrery {

namespace {
double ns_of(const Figure<Seconds>& figure, double scale) { return figure.value.value() * 1e9 * scale; }
}  // namespace

bool takes_images(const InstanceSpec& spec) {
  return spec.model.vision != nullptr && spec.engine.settings.encoder.compute_budget > 0 &&
         spec.engine.settings.encoder.image_limit > 0;
}

std::int64_t embedding_bytes(const InstanceSpec& spec) {
  return spec.model.vision->out_hidden * (1 + spec.model.vision->deepstack) * 2;
}

ModelImages::ModelImages(const InstanceSpec& spec, double host_scale, bool takes_text)
    : vision_(spec.model.vision),
      handle_(duration_from_nanoseconds(ns_of(spec.engine.image_costs.per_image, host_scale))),
      ns_per_pixel_(ns_of(spec.engine.image_costs.per_megapixel, host_scale) * 1e-6),
      ns_per_prepared_pixel_(ns_of(spec.engine.image_costs.per_prepared_megapixel, host_scale) * 1e-6),
      text_waits_(takes_text && spec.engine.image_costs.text_waits),
      cache_bytes_(spec.engine.settings.encoder.processor_cache_bytes),
      image_limit_(spec.engine.settings.encoder.image_limit) {
  if (const auto& send = spec.engine.image_costs.send; send.present())
    ns_per_sent_byte_ = 1e9 / send.value.value() * host_scale;
}

Result<PlacedImage> ModelImages::lay_out(const ImageSize& image) const {
  ORRERY_TRY(layout, lay_out_image(*vision_, image.width, image.height));
  PlacedImage placed;
  placed.tokens = layout.tokens;
  placed.embeddings = layout.embeddings;
  placed.lead = layout.lead;
  placed.rows = layout.rows;
  placed.columns = layout.columns;
  placed.tiles = layout.tiles;
  return placed;
}

SimDuration ModelImages::prepare_time(const ImageSize& image, const PlacedImage& placed) const {
  const double pixels = static_cast<double>(image.width) * static_cast<double>(image.height);
  const double patches = static_cast<double>(placed.rows) * placed.columns * placed.tiles;
  const double prepared = patches * static_cast<double>(vision_->patch * vision_->patch);
  return duration_from_nanoseconds(pixels * ns_per_pixel_ + prepared * ns_per_prepared_pixel_);
}

SimDuration ModelImages::send_time(const PlacedImage& placed) const {
  return duration_from_nanoseconds(static_cast<double>(prepared_bytes(placed)) * ns_per_sent_byte_);
}

// What vLLM's processor cache counts: the pixel values of the patches in 16 bits.
std::int64_t ModelImages::prepared_bytes(const PlacedImage& placed) const {
  return std::int64_t{placed.rows} * placed.columns * placed.tiles * vision_->patch_features() * 2;
}

}  // namespace orrery
