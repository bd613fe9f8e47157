// What the KV pool keeps: shared by kv_block_manager.cpp (layers that keep every token) and kv_windows.cpp
// (groups of layers with a sliding window). Not for others.
#pragma once

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "sim/kv_block_manager.h"
#include "sim/kv_cache_reporter.h"
#include "sim/kv_extent_pool.h"
#include "sim/kv_slab.h"

namespace orrery::kv {

inline constexpr std::int64_t kEndless = std::int64_t{1} << 40;  // tokens that a stream's only node covers
inline constexpr std::int32_t kAllBlocks = std::numeric_limits<std::int32_t>::max();

// Blocks [begin, …) that a sequence found resident: the extents that end with `last`, back to `begin`.
// Splitting an extent leaves its id to the upper part, so the id stays right while the blocks are held.
struct PrefixRun {
  Id last = kNone;
  std::int32_t begin = 0;
  Id before = kNone;  // the sequence's previous run
};

// What one group of layers holds for a sequence. Of its own blocks [hits, own_end) it keeps extents only for
// those that others can find, [hits, min(published, named)); the rest is a count until it is released.
struct Sequence {
  std::int32_t begin = 0;  // blocks before it are out of the window: the engine's null block stands for them
  std::int32_t gap_end = 0;  // states at chunk ends: of its own blocks those before it were never taken
  std::int32_t hits = 0;
  std::int32_t own_end = 0;
  std::int32_t published = 0;
  std::int32_t named_blocks = 0;  // blocks from here on are private
  Id last_run = kNone;
  Id last_own = kNone;
  Id private_node = kNone;  // what it released of its private blocks; made when first needed
  bool open = false;
  bool counted = false;     // its blocks are among the unattributed ones, all of them
  std::int32_t states = 0;  // blocks of its states, in all groups; kept by its first entry
  std::uint64_t serial = 0;
  std::int64_t node_tokens = 0;
  std::vector<Id> path;  // content nodes of the named blocks, from the root's child down

  std::int32_t own_begin() const { return std::max({hits, begin, gap_end}); }
  std::int32_t private_begin() const { return std::max(own_begin(), std::min(published, named_blocks)); }
};

inline std::int32_t to_block(std::int64_t value) {
  ORRERY_CHECK(value >= 0 && value < kAllBlocks, "KV pool: a block count outside [0, 2^31)");
  return static_cast<std::int32_t>(value);
}

}  // namespace orrery::kv

namespace orrery {

struct KvBlockManager::State {
  using Id = kv::Id;
  using Sequence = kv::Sequence;

  explicit State(const Config& c) : config(c), groups(c.full_groups + c.window_groups) {
    pool.blank = c.num_blocks - 1;
  }

  // A sequence has as many entries as there are groups, those of full attention first.
  Sequence& at(Handle handle, std::int32_t group = 0) {
    const std::size_t place = std::size_t{handle} * static_cast<std::size_t>(groups);
    ORRERY_CHECK(place < sequences.size() && sequences[place].open, "KV pool: not an open sequence");
    return sequences[place + static_cast<std::size_t>(group)];
  }
  bool has_window(std::int32_t group) const { return group >= config.full_groups; }
  // Blocks that a window needs in front of the next token.
  std::int32_t window_blocks() const {
    return std::max(1, (config.window - 2 + config.block_size) / config.block_size);
  }

  void allocate(std::int64_t blocks) {
    pool.allocate(blocks);
    allocated += blocks;
  }
  void make_path(Sequence& sequence, const KvContent& content, std::int32_t group);
  void register_blocks(Sequence& sequence, std::int32_t begin, std::int32_t end);
  void append_own(Sequence& sequence, Id node, std::int32_t begin, std::int32_t end);
  void hold(Sequence& sequence, Id id, std::int32_t begin, std::int32_t end);
  void publish(Sequence& sequence, std::int32_t full);
  void release(Sequence& sequence, std::int32_t total, std::int32_t hashed);
  void release_private(Sequence& sequence, std::int32_t begin, std::int32_t end);
  template <class Visit>
  std::int32_t walk(const Sequence& sequence, std::int32_t limit, Visit&& visit) const;
  std::int64_t idle_within(const Sequence& sequence, std::int32_t limit) const;

  // kv_windows.cpp
  Hit lookup_in_groups(Handle handle, std::int32_t limit);
  void take_in_groups(Handle handle, std::int32_t blocks, std::int32_t begin = 0);
  std::int32_t longest_in_windows(Handle handle, std::int32_t limit);
  std::int32_t resident_from(const Sequence& sequence, std::int32_t floor, std::int32_t end) const;
  std::int32_t last_resident(const Sequence& sequence, std::int32_t end) const;
  template <class Visit>
  std::int32_t walk_window(const Sequence& sequence, std::int32_t begin, std::int32_t end,
                           Visit&& visit) const;
  Id node_of(const Sequence& sequence, std::int32_t block, std::int32_t* node_end) const;
  void slide(Sequence& sequence, std::int32_t begin);
  Id let_go_front(Id last, std::int32_t begin, std::int32_t place);

  // kv_states.cpp
  void take_chunk_end(Sequence& sequence, std::int32_t blocks);
  void keep_apart(Sequence& sequence);
  void note_fresh(const Sequence& sequence, std::int32_t begin);
  bool is_fresh(const Sequence& sequence, std::int32_t block) const;

  Config config;
  std::int32_t groups;
  kv::ExtentPool pool;
  std::int64_t unattributed = 0;  // in use, by whom only release() or publish() will say
  std::int64_t allocated = 0;
  std::uint64_t opened = 0;
  std::vector<std::pair<Id, std::int32_t>> fresh;  // states registered in the step under way: node, block
  kv::Slab<kv::PrefixRun> runs;
  std::vector<Sequence> sequences;
  std::vector<Handle> closed;
  std::unique_ptr<kv::CacheReporter> reporter;  // null: nobody watches
};

// Resident blocks from block 0 on, below `limit`: node by node, then what the sequence itself left behind.
template <class Visit>
std::int32_t KvBlockManager::State::walk(const Sequence& sequence, std::int32_t limit, Visit&& visit) const {
  std::int32_t at = 0;
  const std::int64_t named = std::min(limit, sequence.named_blocks);
  std::int64_t tokens = 0;
  for (std::size_t i = 0; at < named; ++i) {
    tokens += sequence.node_tokens;
    const auto end = static_cast<std::int32_t>(std::min(named, tokens / config.block_size));
    if (end <= at) continue;
    at = pool.walk(sequence.path[i], at, end, visit);
    if (at < end) return at;
  }
  if (at == limit || sequence.private_node == kv::kNone) return at;
  return pool.walk(sequence.private_node, at, limit, visit);
}

}  // namespace orrery
