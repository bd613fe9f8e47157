#include "sim/encode_on_touch.h"

#include <algorithm>

#include "sim/encode_work.h"

namespace orrery {

void EncodeOnTouch::open(Slot slot, const Request& request) {
  if (slot >= sequences_.size()) sequences_.resize(slot + 1);
  sequences_[slot] = {.request = request.id, .images = request.images, .encoded = false};
}

void EncodeOnTouch::touch(Slot slot, std::int64_t computed, std::int64_t tokens) {
  if (slot >= sequences_.size()) return;
  Sequence& s = sequences_[slot];
  if (s.images.empty() || (with_first_chunk_ && s.encoded)) return;
  if (encoded_.empty()) encoded_ids_.clear();
  for (const PlacedImage& image : s.images) {
    if (image.end() <= computed) continue;
    if (!with_first_chunk_ && image.offset >= computed + tokens) break;
    encode(s, image);
  }
  s.encoded = true;
}

void EncodeOnTouch::encode(const Sequence& sequence, const PlacedImage& image) {
  if (!with_first_chunk_) {
    const bool now = std::find(encoded_ids_.begin(), encoded_ids_.end(), image.id) != encoded_ids_.end();
    if (now || find(image)) {
      ++counters_.found;
      return;
    }
    keep(image);
  }
  encoded_ids_.push_back(image.id);
  add_encoded(sequence.request, image, encoded_, counters_);
  counters_.cache_size = cache_size_;
  counters_.cache_peak = std::max(counters_.cache_peak, used_);
}

bool EncodeOnTouch::find(const PlacedImage& image) {
  const auto found = kept_at_.find(image.id);
  if (found == kept_at_.end()) return false;
  kept_.splice(kept_.end(), kept_, found->second);
  return true;
}

void EncodeOnTouch::keep(const PlacedImage& image) {
  if (image.embeddings > cache_size_) return;
  while (used_ + image.embeddings > cache_size_) {
    used_ -= kept_.front().embeddings;
    kept_at_.erase(kept_.front().id);
    kept_.pop_front();
  }
  kept_.push_back({image.id, image.embeddings});
  kept_at_[image.id] = std::prev(kept_.end());
  used_ += image.embeddings;
}

}  // namespace orrery
