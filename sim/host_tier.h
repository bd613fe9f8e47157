// KV blocks in host memory, as vLLM 0.24's CPU offloading manager keeps them (v1/kv_offload/cpu/manager.py
// with the LRU policy): by content, a block is being written, idle, or being read; only idle ones are
// dropped, least recently used first.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

namespace orrery {

class HostTier {
 public:
  using Key = std::uint64_t;  // of a block's content and all content before it
  enum class Found : std::uint8_t { missing, being_written, ready };

  explicit HostTier(std::int64_t blocks) : capacity_(blocks) {}

  Found lookup(Key key) const;
  // The first of `keys` becomes the most recently used idle block, as in the engine.
  void touch(std::span<const Key> keys);
  // Those of `keys` that are not here get a block each and are being written until end_store(). False, and
  // nothing changes, when too few idle blocks could be dropped for them (none of `keys` ever is).
  bool begin_store(std::span<const Key> keys, std::vector<Key>& to_store);
  void end_store(std::span<const Key> keys);
  // Precondition: all are ready. They stay at least until end_load().
  void begin_load(std::span<const Key> keys);
  void end_load(std::span<const Key> keys);

  std::int64_t capacity() const { return capacity_; }
  std::int64_t used() const { return static_cast<std::int64_t>(blocks_.size()); }
  std::int64_t dropped_in_total() const { return dropped_; }
  void check_invariants() const;  // O(everything), for tests

 private:
  struct Block {
    std::int32_t readers = 0;       // −1: being written
    std::list<Key>::iterator idle;  // valid without readers
  };
  void make_idle(Key key, Block& block);

  std::int64_t capacity_, dropped_ = 0;
  std::unordered_map<Key, Block> blocks_;  // looked up, never iterated outside tests
  std::list<Key> idle_;                    // least recently used first
};

}  // namespace orrery
