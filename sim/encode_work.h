// An image that a step encodes, in its plan and in the books.
#pragma once

#include <vector>

#include "sim/scheduler.h"

namespace orrery {

inline void add_encoded(RequestId request, const PlacedImage& image, std::vector<EncodeWork>& encoded,
                        EncoderCounters& counters) {
  encoded.push_back({.request = request,
                     .rows = image.rows,
                     .columns = image.columns,
                     .tiles = image.tiles,
                     .embeddings = image.embeddings});
  ++counters.encoded;
  counters.embeddings += static_cast<std::uint64_t>(image.embeddings);
}

}  // namespace orrery
