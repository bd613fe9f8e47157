#include "sim/host_tier.h"

#include <algorithm>

#include "base/check.h"

namespace orrery {

HostTier::Found HostTier::lookup(Key key) const {
  const auto block = blocks_.find(key);
  if (block == blocks_.end()) return Found::missing;
  return block->second.readers < 0 ? Found::being_written : Found::ready;
}

void HostTier::touch(std::span<const Key> keys) {
  for (auto key = keys.rbegin(); key != keys.rend(); ++key) {
    const auto block = blocks_.find(*key);
    if (block != blocks_.end() && block->second.readers == 0)
      idle_.splice(idle_.end(), idle_, block->second.idle);
  }
}

bool HostTier::begin_store(std::span<const Key> keys, std::vector<Key>& to_store) {
  to_store.clear();
  for (const Key key : keys) {
    if (blocks_.count(key) == 0) to_store.push_back(key);
  }
  if (to_store.empty()) return true;
  std::int64_t evict = static_cast<std::int64_t>(to_store.size()) - (capacity_ - used());
  if (evict > 0) {
    std::vector<Key> victims;
    for (auto key = idle_.begin(); key != idle_.end() && evict > 0; ++key) {
      if (std::find(keys.begin(), keys.end(), *key) != keys.end()) continue;
      victims.push_back(*key);
      --evict;
    }
    if (evict > 0) {
      to_store.clear();
      return false;
    }
    for (const Key key : victims) {
      const auto block = blocks_.find(key);
      idle_.erase(block->second.idle);
      blocks_.erase(block);
    }
    dropped_ += static_cast<std::int64_t>(victims.size());
  }
  for (const Key key : to_store) blocks_.emplace(key, Block{.readers = -1, .idle = {}});
  return true;
}

void HostTier::make_idle(Key key, Block& block) {
  block.readers = 0;
  block.idle = idle_.insert(idle_.end(), key);
}

void HostTier::end_store(std::span<const Key> keys) {
  for (const Key key : keys) {
    const auto block = blocks_.find(key);
    ORRERY_CHECK(block != blocks_.end() && block->second.readers < 0, "a block was being written");
    make_idle(key, block->second);
  }
}

void HostTier::begin_load(std::span<const Key> keys) {
  for (const Key key : keys) {
    const auto block = blocks_.find(key);
    ORRERY_CHECK(block != blocks_.end() && block->second.readers >= 0, "what is loaded is there");
    if (block->second.readers++ == 0) idle_.erase(block->second.idle);
  }
}

void HostTier::end_load(std::span<const Key> keys) {
  for (const Key key : keys) {
    const auto block = blocks_.find(key);
    ORRERY_CHECK(block != blocks_.end() && block->second.readers > 0, "a block was being read");
    if (--block->second.readers == 0) make_idle(key, block->second);
  }
}

void HostTier::check_invariants() const {
  std::size_t idle = 0;
  for (const auto& [key, block] : blocks_) idle += block.readers == 0 ? 1 : 0;
  ORRERY_CHECK(used() <= capacity_, "the host tier holds no more than its capacity");
  ORRERY_CHECK(idle == idle_.size(), "idle blocks stand in the list of idle blocks");
}

}  // namespace orrery
