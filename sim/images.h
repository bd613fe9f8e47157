// Images of requests: where their tokens stand in the prompt and what encoding one takes. How many tokens an
// image becomes is the model's business (ImageProcessor); this layer sees only the numbers.
#pragma once

#include <cstdint>

#include "base/ids.h"
#include "base/result.h"
#include "base/time.h"
#include "workloads/request_source.h"

namespace orrery {

struct PlacedImage {
  std::uint64_t id = 0;         // equal ids are equal images; one of its own where the trace gives none
  std::int32_t offset = 0;      // tokens of the prompt before its placeholder
  std::int32_t tokens = 0;      // length of the placeholder
  std::int32_t embeddings = 0;  // outputs of the encoder among them
  std::int32_t lead = 0;        // placeholder tokens before the first of these
  std::int32_t rows = 0, columns = 0, tiles = 1;  // for the encoder: tiles of rows × columns patches
  std::int32_t end() const { return offset + tokens; }
};

// An image that a step encodes.
struct EncodeWork {
  RequestId request;
  std::int32_t rows = 0, columns = 0, tiles = 1;
  std::int32_t embeddings = 0;
};

// What the front end of a deployment knows about the model's images.
class ImageProcessor {
 public:
  virtual ~ImageProcessor() = default;
  // `id` and `offset` are left alone. Errors: sizes that the model's processor refuses.
  virtual Result<PlacedImage> lay_out(const ImageSize& image) const = 0;
  // CPU time: of every image, and on top of that of one that is not kept from an earlier request.
  virtual SimDuration handle_time() const = 0;
  virtual SimDuration prepare_time(const ImageSize& image, const PlacedImage& placed) const = 0;
  virtual std::int64_t prepared_bytes(const PlacedImage& placed) const = 0;
  virtual SimDuration send_time(const PlacedImage& placed) const = 0;  // to the engine's core, if not kept
  virtual bool text_waits() const = 0;  // requests without images wait for images that are being prepared
  virtual std::int64_t cache_bytes() const = 0;  // prepared images that are kept; 0 = none
  virtual std::int64_t image_limit() const = 0;  // of one prompt
};

}  // namespace orrery
