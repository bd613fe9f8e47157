// Says what a KV pool's content tree has, as runs of whole blocks from where a name begins (CacheEvents).
#pragma once

#include <vector>

#include "sim/cache_events.h"
#include "sim/kv_extent_pool.h"

namespace orrery::kv {

class CacheReporter final : public NodeListener {
 public:
  CacheReporter(std::int32_t block_size, CacheEvents& events) : block_size_(block_size), events_(events) {}
  void changed(const ExtentPool& pool, Id node) override;

 private:
  // Where a node stands; known while it has blocks.
  struct Place {
    bool known = false;
    std::uint64_t beginning = 0;
    std::int64_t tokens = 0;          // that a node of its kind covers
    std::int64_t index = 0;           // nodes above it
    std::int32_t reach = 0;           // as last said
    std::int32_t begin = 0, end = 0;  // blocks
  };
  Place place_of(const ContentTree& tree, Id node) const;

  std::int32_t block_size_;
  CacheEvents& events_;
  std::vector<Place> places_;  // by node
};

}  // namespace orrery::kv
