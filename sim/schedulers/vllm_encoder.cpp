#include "sim/schedulers/vllm_encoder.h"

#include <algorithm>

#include "sim/encode_work.h"

namespace orrery {

void VllmEncoder::open(Slot slot, const Request& request) {
  if (slot >= sequences_.size()) sequences_.resize(slot + 1);
  Sequence& s = sequences_[slot];
  s.request = request.id;
  s.images = request.images;
  ++s.epoch;
}

void VllmEncoder::close(Slot slot) {
  Sequence& s = sequences_[slot];
  cache_.release_all(slot, s.images);
  s.images.clear();
  ++s.epoch;
}

void VllmEncoder::preempted(Slot slot) {
  Sequence& s = sequences_[slot];
  cache_.release_all(slot, s.images);
  ++s.epoch;
}

void VllmEncoder::begin_step() {
  budget_ = rules_.compute_budget;
  encoded_.clear();
}

std::int64_t VllmEncoder::limit(Slot slot, std::int64_t computed, std::int64_t tokens) {
  to_encode_.clear();
  budget_after_ = budget_;
  if (tokens == 0 || !has_images(slot)) return tokens;
  const std::vector<PlacedImage>& images = sequences_[slot].images;
  std::int64_t stored = 0;  // embeddings that this request is to store in this step
  const std::int64_t window = computed + tokens + shift_;
  for (std::size_t i = 0; i < images.size() && images[i].offset < window; ++i) {
    const PlacedImage& image = images[i];
    const auto index = static_cast<std::int32_t>(i);
    if (image.end() <= computed) continue;
    const bool equal_before = std::any_of(to_encode_.begin(), to_encode_.end(), [&](std::int32_t other) {
      return images[static_cast<std::size_t>(other)].id == image.id;
    });
    if (equal_before) continue;
    const std::vector<std::int32_t>& held = cache_.held(slot);
    const bool held_before = std::find(held.begin(), held.end(), index) != held.end();
    if (cache_.refer(slot, index, image)) {
      if (!held_before) ++counters_.found;
      continue;
    }
    if (rules_.disable_chunked_input && computed < image.offset && computed + tokens < image.end()) {
      tokens = std::max<std::int64_t>(0, image.offset - computed - shift_);
      break;
    }
    if (!cache_.make_room(image.embeddings, budget_after_, stored)) {
      tokens = std::max<std::int64_t>(0, image.offset - computed - shift_);
      break;
    }
    // A chunk that holds no embedding of the image needs none of its outputs.
    const std::int64_t first = std::max<std::int64_t>(computed - image.offset, image.lead);
    const std::int64_t last = std::min<std::int64_t>(computed + tokens - image.offset, image.tokens);
    if (first >= last) continue;
    stored += image.embeddings;
    if (!rules_.elsewhere) budget_after_ -= image.embeddings;  // `external_load_encoder_input`
    to_encode_.push_back(index);
  }
  return tokens;
}

void VllmEncoder::commit(Slot slot) {
  const Sequence& s = sequences_[slot];
  for (const std::int32_t index : to_encode_) {
    const PlacedImage& image = s.images[static_cast<std::size_t>(index)];
    cache_.store(slot, index, image);
    if (rules_.elsewhere) continue;
    add_encoded(s.request, image, encoded_, counters_);
  }
  budget_ = budget_after_;
  to_encode_.clear();
}

void VllmEncoder::abandon(Slot slot) {
  cache_.release_all(slot, sequences_[slot].images);
  to_encode_.clear();
}

void VllmEncoder::ran(Slot slot, std::int64_t step, bool ends, std::int64_t target) {
  if (cache_.held(slot).empty()) return;
  open_.push_back({.slot = slot,
                   .epoch = sequences_[slot].epoch,
                   .step = step,
                   .ends = ends,
                   .known = target - 1,
                   .target = target});
}

void VllmEncoder::pass(Slot slot, std::int64_t known) {
  const std::vector<std::int32_t> held = cache_.held(slot);
  for (const std::int32_t index : held) {
    const PlacedImage& image = sequences_[slot].images[static_cast<std::size_t>(index)];
    if (image.end() + shift_ <= known) cache_.release(slot, index, image);
  }
}

EncoderCounters VllmEncoder::counters() const {
  EncoderCounters c = counters_;
  c.cache_size = cache_.size();
  c.cache_peak = cache_.peak();
  return c;
}

}  // namespace orrery
