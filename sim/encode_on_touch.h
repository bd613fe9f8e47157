// Images in engines whose scheduler does not ask for their encoder: an image is encoded in the step whose
// chunk first touches its placeholder, whatever else runs, and its outputs may be kept for later.
//
// SGLang 0.5.23 (managers/mm_schedule.py, _batch_encode_per_image_misses): images that the chunk overlaps are
// looked up in a cache of outputs, least recently used (SGLANG_VLM_CACHE_SIZE_MB); one pass encodes the
// misses of all requests of the batch. An image larger than the cache is encoded again by every chunk that
// touches it. TensorRT-LLM 1.2: all images of a request in its first context step, kept as long as the
// request; its source was not at hand for this part.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <unordered_map>
#include <vector>

#include "sim/request.h"
#include "sim/scheduler.h"

namespace orrery {

class EncodeOnTouch {
 public:
  using Slot = std::uint32_t;

  // `cache_size`: embeddings that are kept across requests. `with_first_chunk`: all images of a request at
  // once, then kept by the request.
  EncodeOnTouch(std::int64_t cache_size, bool with_first_chunk)
      : cache_size_(cache_size), with_first_chunk_(with_first_chunk) {}

  void open(Slot slot, const Request& request);
  void close(Slot slot) { sequences_[slot].images.clear(); }
  void begin_step() { encoded_.clear(); }
  // A chunk of `tokens` behind `computed`. In schedule order.
  void touch(Slot slot, std::int64_t computed, std::int64_t tokens);
  const std::vector<EncodeWork>& encoded() const { return encoded_; }
  EncoderCounters counters() const { return counters_; }

 private:
  struct Sequence {
    RequestId request;
    std::vector<PlacedImage> images;
    bool encoded = false;  // with_first_chunk
  };
  void encode(const Sequence& sequence, const PlacedImage& image);
  bool find(const PlacedImage& image);
  void keep(const PlacedImage& image);

  struct Kept {
    std::uint64_t id = 0;
    std::int64_t embeddings = 0;
  };
  std::int64_t cache_size_, used_ = 0;
  bool with_first_chunk_;
  std::vector<Sequence> sequences_;
  std::vector<EncodeWork> encoded_;
  std::vector<std::uint64_t> encoded_ids_;                                // of this step
  std::list<Kept> kept_;                                                  // oldest use first
  std::unordered_map<std::uint64_t, std::list<Kept>::iterator> kept_at_;  // looked up, never iterated
  EncoderCounters counters_;
};

}  // namespace orrery
