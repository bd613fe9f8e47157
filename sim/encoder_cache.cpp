#include "sim/encoder_cache.h"

#include <algorithm>

#include "base/check.h"

namespace orrery {

namespace {

void add_once(std::vector<std::int32_t>& list, std::int32_t value) {
  if (std::find(list.begin(), list.end(), value) == list.end()) list.push_back(value);
}

}  // namespace

bool EncoderCache::refer(Holder holder, std::int32_t index, const PlacedImage& image) {
  const auto found = entries_.find(image.id);
  if (found == entries_.end()) return false;
  Entry& entry = found->second;
  if (entry.holders.empty()) {
    unreferenced_.erase(entry.unreferenced);
    freeable_ -= entry.embeddings;
  }
  if (std::find(entry.holders.begin(), entry.holders.end(), holder) == entry.holders.end())
    entry.holders.push_back(holder);
  if (holder >= held_.size()) held_.resize(holder + 1);
  add_once(held_[holder], index);
  return true;
}

bool EncoderCache::make_room(std::int64_t embeddings, std::int64_t compute_budget, std::int64_t others) {
  if (embeddings > compute_budget) return false;
  const std::int64_t needed = embeddings + others;
  if (needed <= free_) return true;
  if (needed > freeable_) return false;
  while (needed > free_) drop_oldest();
  return true;
}

void EncoderCache::drop_oldest() {
  const auto entry = entries_.find(unreferenced_.front());
  free_ += entry->second.embeddings;
  entries_.erase(entry);
  unreferenced_.pop_front();
}

void EncoderCache::store(Holder holder, std::int32_t index, const PlacedImage& image) {
  ORRERY_CHECK(free_ >= image.embeddings, "the encoder cache made room before it stores");
  Entry& entry = entries_[image.id];
  entry.embeddings = image.embeddings;
  entry.holders.push_back(holder);
  if (holder >= held_.size()) held_.resize(holder + 1);
  add_once(held_[holder], index);
  free_ -= image.embeddings;
  freeable_ -= image.embeddings;
  peak_ = std::max(peak_, size_ - free_);
}

void EncoderCache::release(Holder holder, std::int32_t index, const PlacedImage& image) {
  if (holder < held_.size()) std::erase(held_[holder], index);
  const auto found = entries_.find(image.id);
  if (found == entries_.end() || found->second.holders.empty()) return;
  Entry& entry = found->second;
  std::erase(entry.holders, holder);
  if (!entry.holders.empty()) return;
  entry.unreferenced = unreferenced_.insert(unreferenced_.end(), image.id);
  freeable_ += entry.embeddings;
}

void EncoderCache::release_all(Holder holder, const std::vector<PlacedImage>& images) {
  if (holder >= held_.size()) return;
  const std::vector<std::int32_t> indices = held_[holder];
  for (const std::int32_t index : indices) release(holder, index, images[static_cast<std::size_t>(index)]);
}

const std::vector<std::int32_t>& EncoderCache::held(Holder holder) const {
  static const std::vector<std::int32_t> nothing;
  return holder < held_.size() ? held_[holder] : nothing;
}

void EncoderCache::check_invariants() const {
  std::int64_t stored = 0, idle = 0;
  for (const auto& [id, entry] : entries_) {
    stored += entry.embeddings;
    if (entry.holders.empty()) idle += entry.embeddings;
  }
  std::int64_t listed = 0;
  for (const std::uint64_t id : unreferenced_) {
    const auto entry = entries_.find(id);
    ORRERY_CHECK(entry != entries_.end() && entry->second.holders.empty(), "an idle entry has no holder");
    listed += entry->second.embeddings;
  }
  ORRERY_CHECK(stored == size_ - free_ && idle == freeable_ - free_ && listed == idle && free_ >= 0,
               "the encoder cache's counts add up");
}

}  // namespace orrery
