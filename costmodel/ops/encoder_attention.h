// Bidirectional attention of a vision encoder: every patch of an image (or of a window of it) sees all
// others, one launch for all images of a pass. No cache, no mask.
#pragma once

#include <cstdint>
#include <span>

#include "costmodel/operator.h"
#include "costmodel/roofline.h"
#include "costmodel/vision_spec.h"

namespace orrery {

struct EncoderImage;

class EncoderAttention {
 public:
  EncoderAttention(const VisionSpec& vision, std::int64_t tp, DType math, const Roofline& roofline);
  OpCost cost(std::span<const EncoderImage> images, bool windows) const;

 private:
  VisionSpec vision_;
  std::int64_t heads_, padded_dim_;
  const Roofline& roofline_;
  double per_operation_ns_;
};

}  // namespace orrery
