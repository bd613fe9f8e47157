// The model's image rule and the engine profile's CPU figures, as the front end asks for them.
#pragma once

#include "base/result.h"
#include "costmodel/step_pricer.h"
#include "sim/images.h"

namespace orrery {

class ModelImages final : public ImageProcessor {
 public:
  // Precondition: the instance takes images (engine.settings.encoder.image_limit > 0 and model.vision).
  // `host_scale` multiplies CPU times. `takes_text`: its servers take requests without images in too (those
  // of an encoder pool do not).
  ModelImages(const InstanceSpec& spec, double host_scale, bool takes_text = true);

  Result<PlacedImage> lay_out(const ImageSize& image) const override;
  SimDuration handle_time() const override { return handle_; }
  SimDuration prepare_time(const ImageSize& image, const PlacedImage& placed) const override;
  std::int64_t prepared_bytes(const PlacedImage& placed) const override;
  SimDuration send_time(const PlacedImage& placed) const override;
  bool text_waits() const override { return text_waits_; }
  std::int64_t cache_bytes() const override { return cache_bytes_; }
  std::int64_t image_limit() const override { return image_limit_; }

 private:
  std::shared_ptr<const VisionSpec> vision_;
  SimDuration handle_;
  double ns_per_pixel_, ns_per_prepared_pixel_, ns_per_sent_byte_ = 0;
  bool text_waits_;
  std::int64_t cache_bytes_, image_limit_;
};

// Of one output of the encoder, in 16 bits, with what deepstack adds to it.
std::int64_t embedding_bytes(const InstanceSpec& spec);

// Whether a deployment takes images at all.
bool takes_images(const InstanceSpec& spec);

}  // namespace orrery
