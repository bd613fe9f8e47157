#include "sim/kv_block_manager.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "base/check.h"
#include "sim/kv_extent_pool.h"
#include "sim/kv_slab.h"

namespace orrery {

using kv::Extent;
using kv::Id;
using kv::kNone;

namespace {

constexpr std::int64_t kEndless = std::int64_t{1} << 40;  // tokens that a stream's only node covers
constexpr std::int32_t kAllBlocks = std::numeric_limits<std::int32_t>::max();

// Blocks [begin, …) that a sequence found resident: the extents that end with `last`, back to `begin`.
// Splitting an extent leaves its id to the upper part, so the id stays right while the blocks are held.
struct PrefixRun {
  Id last = kNone;
  std::int32_t begin = 0;
  Id before = kNone;  // the sequence's previous run
};

// Of its own blocks [hits, own_end) a sequence keeps extents only for those that others can find, [hits,
// min(published, named)); the rest is a count until it is released.
struct Sequence {
  std::int32_t hits = 0;
  std::int32_t own_end = 0;
  std::int32_t published = 0;
  std::int32_t named_blocks = 0;  // blocks from here on are private
  Id last_run = kNone;
  Id last_own = kNone;
  Id private_node = kNone;  // what it released of its private blocks; made when first needed
  bool open = false;
  std::uint64_t serial = 0;
  std::int64_t node_tokens = 0;
  std::vector<Id> path;  // content nodes of the named blocks, from the root's child down
};

std::int32_t to_block(std::int64_t value) {
  ORRERY_CHECK(value >= 0 && value < kAllBlocks, "KV pool: a block count outside [0, 2^31)");
  return static_cast<std::int32_t>(value);
}

}  // namespace

struct KvBlockManager::State {
  explicit State(const Config& c) : config(c) { pool.blank = c.num_blocks - 1; }

  Sequence& at(Handle handle) {
    ORRERY_CHECK(handle < sequences.size() && sequences[handle].open, "KV pool: not an open sequence");
    return sequences[handle];
  }

  void allocate(std::int64_t blocks) {
    pool.allocate(blocks);
    allocated += blocks;
  }
  void make_path(Sequence& sequence, const KvContent& content);
  void register_blocks(Sequence& sequence, std::int32_t begin, std::int32_t end);
  void append_own(Sequence& sequence, Id node, std::int32_t begin, std::int32_t end);
  void hold(Sequence& sequence, Id id, std::int32_t begin, std::int32_t end);
  void release_private(Sequence& sequence, std::int32_t begin, std::int32_t end);
  template <class Visit>
  std::int32_t walk(const Sequence& sequence, std::int32_t limit, Visit&& visit) const;

  Config config;
  kv::ExtentPool pool;
  std::int64_t unattributed = 0;  // in use, by whom only release() or publish() will say
  std::int64_t allocated = 0;
  std::uint64_t opened = 0;
  kv::Slab<PrefixRun> runs;
  std::vector<Sequence> sequences;
  std::vector<Handle> closed;
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
  if (at == limit || sequence.private_node == kNone) return at;
  return pool.walk(sequence.private_node, at, limit, visit);
}

void KvBlockManager::State::make_path(Sequence& sequence, const KvContent& content) {
  sequence.named_blocks = 0;
  sequence.path.clear();
  if (!config.prefix_caching) return;
  Id node = kv::kStreamRoot;
  if (!content.hash_ids.empty()) {
    ORRERY_CHECK(content.hash_block_size > 0 && content.hash_block_size < (1 << 30),
                 "KV content: hash_block_size outside [1, 2^30)");
    const std::int64_t covered = static_cast<std::int64_t>(content.hash_ids.size()) * content.hash_block_size;
    sequence.named_blocks = to_block(std::min(content.named_tokens, covered) / config.block_size);
    if (sequence.named_blocks == 0) return;
    sequence.node_tokens = content.hash_block_size;
    const std::int64_t last_token = std::int64_t{sequence.named_blocks} * config.block_size - 1;
    const auto depth = static_cast<std::size_t>(last_token / content.hash_block_size) + 1;
    node = kv::kHashRoot | static_cast<Id>(content.hash_block_size);
    for (std::size_t i = 0; i < depth; ++i) {
      node = pool.tree.find_or_make(node, content.hash_ids[i]);
      sequence.path.push_back(node);
    }
  } else if (content.stream != 0) {
    sequence.named_blocks = kAllBlocks;
    sequence.node_tokens = kEndless;
    node = pool.tree.find_or_make(node, content.stream);
    sequence.path.push_back(node);
  } else {
    return;
  }
  ++pool.tree[node].users;
}

// Named blocks [begin, end) of the sequence's own become findable, held once.
void KvBlockManager::State::register_blocks(Sequence& sequence, std::int32_t begin, std::int32_t end) {
  const std::int64_t size = config.block_size;
  auto i = static_cast<std::size_t>(((std::int64_t{begin} + 1) * size - 1) / sequence.node_tokens);
  for (std::int32_t at = begin; at < end; ++i) {
    const std::int64_t node_end = (static_cast<std::int64_t>(i) + 1) * sequence.node_tokens / size;
    const auto to = static_cast<std::int32_t>(std::min<std::int64_t>(end, node_end));
    if (to <= at) continue;
    append_own(sequence, sequence.path[i], at, to);
    at = to;
  }
}

void KvBlockManager::State::append_own(Sequence& sequence, Id node, std::int32_t begin, std::int32_t end) {
  const Id last = sequence.last_own;
  // Longer, only while it stays the node's newest copy: otherwise blocks registered now would count as older
  // than those registered in between.
  if (last != kNone && pool.tree[node].copies.last == last && pool.extents[last].holders == 1) {
    pool.extents[last].end = end;
  } else {
    sequence.last_own = pool.add(node, begin, end, 1, last);
  }
}

void KvBlockManager::State::hold(Sequence& sequence, Id id, std::int32_t begin, std::int32_t end) {
  id = pool.hold(id, begin, end);
  if (sequence.last_run != kNone && runs[sequence.last_run].last == pool.extents[id].run.prev) {
    runs[sequence.last_run].last = id;
  } else {
    sequence.last_run = runs.make(PrefixRun{id, begin, sequence.last_run});
  }
}

void KvBlockManager::State::release_private(Sequence& sequence, std::int32_t begin, std::int32_t end) {
  if (sequence.private_node == kNone) {
    sequence.private_node = pool.tree.make_private(sequence.serial);
    pool.tree[sequence.private_node].users = 1;
  }
  pool.make_idle(pool.add(sequence.private_node, begin, end, 0, kNone));
}

KvBlockManager::KvBlockManager(const Config& config) {
  ORRERY_CHECK(config.num_blocks >= 1 && config.num_blocks < kAllBlocks,

               "KV pool: num_blocks outside [1, 2^31)");
  ORRERY_CHECK(config.block_size >= 1, "KV pool: block_size must be positive");
  state_ = std::make_unique<State>(config);
}
KvBlockManager::KvBlockManager(KvBlockManager&&) noexcept = default;
KvBlockManager::~KvBlockManager() = default;

KvBlockManager::Handle KvBlockManager::open(const KvContent& content) {
  State& state = *state_;
  Handle handle = static_cast<Handle>(state.sequences.size());
  if (state.closed.empty()) {
    state.sequences.emplace_back();
  } else {
    handle = state.closed.back();
    state.closed.pop_back();
  }
  Sequence& sequence = state.sequences[handle];
  sequence.open = true;
  sequence.serial = ++state.opened;
  state.make_path(sequence, content);
  return handle;
}

void KvBlockManager::close(Handle handle) {
  State& state = *state_;
  Sequence& sequence = state.at(handle);
  ORRERY_CHECK(sequence.hits == 0 && sequence.own_end == 0, "KV pool: a closed sequence still holds blocks");
  if (!sequence.path.empty()) {
    const Id node = sequence.path.back();
    --state.pool.tree[node].users;
    state.pool.tree.drop_if_unneeded(node);
  }
  if (sequence.private_node != kNone) {
    state.pool.tree[sequence.private_node].users = 0;
    state.pool.tree.drop_if_unneeded(sequence.private_node);
    sequence.private_node = kNone;
  }
  sequence.open = false;
  state.closed.push_back(handle);
}

KvBlockManager::Hit KvBlockManager::lookup(Handle handle, std::int64_t tokens) const {
  const State& state = *state_;
  const Sequence& sequence = state_->at(handle);
  Hit hit;
  if (!state.config.prefix_caching || tokens <= 0) return hit;
  const std::int64_t limit = std::min<std::int64_t>((tokens - 1) / state.config.block_size, kAllBlocks - 1);
  hit.blocks = state.walk(sequence, to_block(limit), [&](Id id, std::int32_t from, std::int32_t to) {
    if (state.pool.extents[id].holders == 0) hit.idle += to - from;
  });
  return hit;
}

std::int64_t KvBlockManager::usable_blocks() const { return state_->config.num_blocks - 1; }
std::int64_t KvBlockManager::free_blocks() const { return state_->pool.blank + state_->pool.idle; }
std::int64_t KvBlockManager::allocated_in_total() const { return state_->allocated; }
std::int64_t KvBlockManager::evicted_in_total() const { return state_->pool.evicted; }

void KvBlockManager::take_prefix(Handle handle, std::int64_t tokens, Hit hit) {
  State& state = *state_;
  Sequence& sequence = state.at(handle);
  ORRERY_CHECK(sequence.own_end == 0, "KV pool: take_prefix by a sequence that holds blocks");
  ORRERY_CHECK(hit.blocks == 0 || hit.blocks <= (tokens - 1) / state.config.block_size,
               "KV pool: take_prefix beyond the last token but one");
  if (hit.blocks == 0) return;
  const std::int32_t blocks = to_block(hit.blocks);
  const std::int32_t found = state.walk(
      sequence, blocks,
      [&state, &sequence](Id id, std::int32_t from, std::int32_t to) { state.hold(sequence, id, from, to); });
  ORRERY_CHECK(found == blocks, "KV pool: take_prefix of blocks that are not resident (any more)");
  sequence.hits = sequence.own_end = sequence.published = blocks;
}

void KvBlockManager::grow(Handle handle, std::int64_t blocks) {
  Sequence& sequence = state_->at(handle);
  state_->allocate(blocks);
  sequence.own_end = to_block(sequence.own_end + blocks);
}

void KvBlockManager::grow_unattributed(std::int64_t blocks) {
  state_->allocate(blocks);
  state_->unattributed += blocks;
}

void KvBlockManager::publish(Handle handle, std::int64_t full_blocks) {
  State& state = *state_;
  Sequence& sequence = state.at(handle);
  const std::int32_t full = to_block(full_blocks);
  if (full <= sequence.published) return;
  if (full > sequence.own_end) {  // they are among those of grow_unattributed()
    state.unattributed -= full - sequence.own_end;
    ORRERY_CHECK(state.unattributed >= 0, "KV pool: published blocks that were never allocated");
    sequence.own_end = full;
  }
  const std::int32_t named = std::min(full, sequence.named_blocks);
  if (sequence.published < named) state.register_blocks(sequence, sequence.published, named);
  sequence.published = full;
}

void KvBlockManager::release(Handle handle, std::int64_t total_blocks, std::int64_t hashed_blocks) {
  State& state = *state_;
  Sequence& sequence = state.at(handle);
  const std::int32_t total = to_block(total_blocks);
  ORRERY_CHECK(hashed_blocks <= total_blocks, "KV pool: more hashed blocks than blocks");
  publish(handle, hashed_blocks);
  ORRERY_CHECK(total >= sequence.own_end, "KV pool: a sequence gives back fewer blocks than it got");
  state.unattributed -= total - sequence.own_end;
  ORRERY_CHECK(state.unattributed >= 0, "KV pool: a sequence gives back more blocks than it got");

  const std::int32_t hashed = state.config.prefix_caching ? sequence.published : 0;
  state.pool.blank += total - std::max(hashed, sequence.hits);
  const std::int32_t private_from = std::max(sequence.hits, std::min(hashed, sequence.named_blocks));
  if (private_from < hashed) state.release_private(sequence, private_from, hashed);
  if (sequence.last_own != kNone) state.pool.let_go(sequence.last_own, sequence.hits);
  while (sequence.last_run != kNone) {
    const PrefixRun run = state.runs[sequence.last_run];
    state.pool.let_go(run.last, run.begin);
    state.runs.drop(sequence.last_run);
    sequence.last_run = run.before;
  }
  sequence.last_own = kNone;
  sequence.hits = sequence.own_end = sequence.published = 0;
}

bool KvBlockManager::reset_prefix_cache() {
  if (free_blocks() != usable_blocks()) return false;
  state_->pool.make_all_blank();
  return true;
}

std::uint64_t KvBlockManager::state_digest() const {
  const State& state = *state_;
  Digest digest;
  digest.add(state.pool.blank);
  digest.add(state.allocated);
  digest.add(state.pool.evicted);
  for (Id id = state.pool.queue.first; id != kNone; id = state.pool.extents[id].queue.next) {
    const Extent& extent = state.pool.extents[id];
    const std::uint64_t label = state.pool.tree.label(extent.node);
    for (std::int32_t block = extent.end - 1; block >= extent.begin; --block) {
      digest.add(label);
      digest.add(std::int64_t{block});
    }
  }
  return digest.value();
}

void KvBlockManager::check_invariants() const {
  const State& state = *state_;
  std::vector<std::int32_t> holders(state.pool.extents.slots(), 0);
  std::int64_t held = state.unattributed;
  const auto count = [&state, &holders, &held](Id last, std::int32_t begin, std::int32_t end) {
    for (Id id = last; end > begin; id = state.pool.extents[id].run.prev) {
      ORRERY_CHECK(id != kNone && state.pool.extents[id].end == end,
                   "KV pool: what a sequence holds has a gap");
      if (holders[id]++ == 0) held += state.pool.extents[id].size();
      end = state.pool.extents[id].begin;
    }
    ORRERY_CHECK(end == begin, "KV pool: what a sequence holds begins inside an extent");
  };
  std::vector<Id> nodes;
  for (const Sequence& sequence : state.sequences) {
    if (!sequence.open) continue;
    if (!sequence.path.empty()) nodes.push_back(sequence.path.back());
    if (sequence.private_node != kNone) nodes.push_back(sequence.private_node);
    std::int32_t end = sequence.hits;
    for (Id id = sequence.last_run; id != kNone; id = state.runs[id].before) {
      count(state.runs[id].last, state.runs[id].begin, end);
      end = state.runs[id].begin;
    }
    ORRERY_CHECK(end == 0, "KV pool: prefix runs do not reach block 0");
    const std::int32_t own = std::max(sequence.hits, std::min(sequence.published, sequence.named_blocks));
    count(sequence.last_own, sequence.hits, own);
    held += sequence.own_end - own;
  }
  ORRERY_CHECK(held + free_blocks() == usable_blocks(), "KV pool: blocks held and free do not add up");
  state.pool.check(holders, std::move(nodes));
}

}  // namespace orrery
