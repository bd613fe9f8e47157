#include "sim/kv_block_manager.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "base/check.h"
#include "sim/kv_pool_state.h"

namespace orrery {

using kv::Extent;
using kv::Id;
using kv::kAllBlocks;
using kv::kNone;
using kv::Sequence;
using kv::to_block;

void KvBlockManager::State::make_path(Sequence& sequence, const KvContent& content, std::int32_t group) {
  sequence.named_blocks = 0;
  sequence.path.clear();
  if (!config.prefix_caching) return;
  Id node = group == 0 ? kv::kStreamRoot : kv::stream_root_of_group(group);
  if (!content.hash_ids.empty()) {
    ORRERY_CHECK(content.hash_block_size > 0 && content.hash_block_size < (1 << 30),
                 "KV content: hash_block_size outside [1, 2^30)");
    const std::int64_t covered = static_cast<std::int64_t>(content.hash_ids.size()) * content.hash_block_size;
    sequence.named_blocks = to_block(std::min(content.named_tokens, covered) / config.block_size);
    if (sequence.named_blocks == 0) return;
    sequence.node_tokens = content.hash_block_size;
    const std::int64_t last_token = std::int64_t{sequence.named_blocks} * config.block_size - 1;
    const auto depth = static_cast<std::size_t>(last_token / content.hash_block_size) + 1;
    node = kv::hash_root(content.hash_block_size, group);
    for (std::size_t i = 0; i < depth; ++i) {
      node = pool.tree.find_or_make(node, content.hash_ids[i]);
      sequence.path.push_back(node);
    }
  } else if (content.stream != 0) {
    sequence.named_blocks = kAllBlocks;
    sequence.node_tokens = kv::kEndless;
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
    pool.note_change(node);
  } else {
    sequence.last_own = pool.add(node, begin, end, 1, last);
  }
}

void KvBlockManager::State::hold(Sequence& sequence, Id id, std::int32_t begin, std::int32_t end) {
  id = pool.hold(id, begin, end);
  if (sequence.last_run != kNone && runs[sequence.last_run].last == pool.extents[id].run.prev) {
    runs[sequence.last_run].last = id;
  } else {
    sequence.last_run = runs.make(kv::PrefixRun{id, begin, sequence.last_run});
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
  ORRERY_CHECK(config.full_groups >= 0 && config.window_groups >= 0 &&
                   config.full_groups + config.window_groups >= 1 &&
                   config.full_groups + config.window_groups < 64,
               "KV pool: between 1 and 63 groups of layers");
  ORRERY_CHECK(config.state_groups >= 0 &&
                   (config.state_groups == 0 || !config.prefix_caching || config.cached_states),
               "KV pool: states beside prefix caching that are not cached");
  ORRERY_CHECK(!config.cached_states || (config.window == 2 && config.window_groups > 0),
               "KV pool: cached states are groups with a window of 2 tokens");
  ORRERY_CHECK(config.window_groups == 0 || config.window >= 2, "KV pool: a window of fewer than 2 tokens");
  state_ = std::make_unique<State>(config);
}
KvBlockManager::KvBlockManager(KvBlockManager&&) noexcept = default;
KvBlockManager::~KvBlockManager() = default;

KvBlockManager::Handle KvBlockManager::open(const KvContent& content) {
  State& state = *state_;
  const auto groups = static_cast<std::size_t>(state.groups);
  Handle handle = static_cast<Handle>(state.sequences.size() / groups);
  if (state.closed.empty()) {
    state.sequences.resize(state.sequences.size() + groups);
  } else {
    handle = state.closed.back();
    state.closed.pop_back();
  }
  ++state.opened;
  for (std::int32_t g = 0; g < state.groups; ++g) {
    Sequence& sequence = state.sequences[std::size_t{handle} * groups + static_cast<std::size_t>(g)];
    sequence.open = true;
    sequence.serial = state.opened;
    state.make_path(sequence, content, g);
  }
  return handle;
}

void KvBlockManager::close(Handle handle) {
  State& state = *state_;
  for (std::int32_t g = state.groups - 1; g >= 0; --g) {
    Sequence& sequence = state.at(handle, g);
    ORRERY_CHECK(sequence.hits == 0 && sequence.own_end == 0 && sequence.states == 0,
                 "KV pool: a closed sequence still holds blocks");
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
  }
  state.closed.push_back(handle);
}

std::int64_t KvBlockManager::State::idle_within(const Sequence& sequence, std::int32_t limit) const {
  std::int64_t idle = 0;
  walk(sequence, limit, [&](Id id, std::int32_t from, std::int32_t to) {
    if (pool.extents[id].holders == 0) idle += to - from;
  });
  return idle;
}

KvBlockManager::Hit KvBlockManager::lookup(Handle handle, std::int64_t tokens) const {
  const State& state = *state_;
  const Sequence& sequence = state_->at(handle);
  Hit hit;
  if (!state.config.prefix_caching || tokens <= 0) return hit;
  const std::int64_t limit = std::min<std::int64_t>((tokens - 1) / state.config.block_size, kAllBlocks - 1);
  if (state.config.window_groups > 0) return state_->lookup_in_groups(handle, to_block(limit));
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
  if (state.config.window_groups > 0) return state.take_in_groups(handle, blocks);
  const std::int32_t found = state.walk(
      sequence, blocks,
      [&state, &sequence](Id id, std::int32_t from, std::int32_t to) { state.hold(sequence, id, from, to); });
  ORRERY_CHECK(found == blocks, "KV pool: take_prefix of blocks that are not resident (any more)");
  sequence.hits = sequence.own_end = sequence.published = blocks;
}

void KvBlockManager::grow(Handle handle, std::int64_t blocks) {
  const bool ends = state_->config.chunk_ends && blocks > 1;
  state_->allocate(ends ? blocks * state_->config.full_groups + state_->config.window_groups
                        : blocks * state_->groups);
  for (std::int32_t g = 0; g < state_->groups; ++g) {
    Sequence& sequence = state_->at(handle, g);
    if (ends && state_->has_window(g)) state_->take_chunk_end(sequence, to_block(blocks));
    sequence.own_end = to_block(sequence.own_end + blocks);
  }
}

void KvBlockManager::take_states(Handle handle) {
  Sequence& sequence = state_->at(handle);
  ORRERY_CHECK(sequence.states == 0, "KV pool: a sequence takes its states twice");
  state_->allocate(state_->config.state_groups);
  sequence.states = state_->config.state_groups;
}

void KvBlockManager::grow_unattributed(std::int64_t blocks) {
  state_->allocate(blocks * state_->groups);
  state_->unattributed += blocks * state_->groups;
}

void KvBlockManager::publish(Handle handle, std::int64_t full_blocks) {
  const std::int32_t full = to_block(full_blocks);
  const Sequence& with_state = state_->at(handle, state_->groups - 1);
  const std::int32_t before = with_state.published;
  for (std::int32_t g = 0; g < state_->groups; ++g) state_->publish(state_->at(handle, g), full);
  if (state_->config.cached_states) state_->note_fresh(with_state, before);
}

void KvBlockManager::State::publish(Sequence& sequence, std::int32_t full) {
  if (full <= sequence.published) return;
  if (full > sequence.own_end) {  // they are among those of grow_unattributed()
    unattributed -= full - sequence.own_end;
    ORRERY_CHECK(unattributed >= 0, "KV pool: published blocks that were never allocated");
    sequence.own_end = full;
  }
  const std::int32_t named = std::min(full, sequence.named_blocks);
  const std::int32_t from = std::max({sequence.published, sequence.begin, sequence.gap_end});
  if (from < named) register_blocks(sequence, from, named);
  sequence.published = full;
}

void KvBlockManager::release(Handle handle, std::int64_t total_blocks, std::int64_t hashed_blocks,
                             std::int64_t begin) {
  State& state = *state_;
  const std::int32_t total = to_block(total_blocks);
  ORRERY_CHECK(hashed_blocks <= total_blocks, "KV pool: more hashed blocks than blocks");
  // The engine walks its groups in the order in which the model's layers bring them up; models with windows
  // begin with one.
  for (std::int32_t g = state.groups - 1; g >= 0; --g) {
    Sequence& sequence = state.at(handle, g);
    if (sequence.counted) {
      sequence.begin = sequence.hits = sequence.own_end = sequence.published = to_block(begin);
      sequence.counted = false;
    }
    state.release(sequence, total, to_block(hashed_blocks));
  }
  state.pool.blank += std::exchange(state.at(handle).states, 0);
}

void KvBlockManager::State::release(Sequence& sequence, std::int32_t total, std::int32_t hashed_blocks) {
  publish(sequence, hashed_blocks);
  ORRERY_CHECK(total >= sequence.own_end, "KV pool: a sequence gives back fewer blocks than it got");
  unattributed -= total - sequence.own_end;
  ORRERY_CHECK(unattributed >= 0, "KV pool: a sequence gives back more blocks than it got");

  const std::int32_t hashed = config.prefix_caching ? sequence.published : 0;
  const std::int32_t own = sequence.own_begin();
  pool.blank += total - std::max(hashed, own);
  const std::int32_t private_from = std::max(own, std::min(hashed, sequence.named_blocks));
  if (private_from < hashed) release_private(sequence, private_from, hashed);
  if (sequence.last_own != kNone) pool.let_go(sequence.last_own, own);
  while (sequence.last_run != kNone) {
    const kv::PrefixRun run = runs[sequence.last_run];
    pool.let_go(run.last, run.begin);
    runs.drop(sequence.last_run);
    sequence.last_run = run.before;
  }
  sequence.last_own = kNone;
  sequence.begin = sequence.gap_end = sequence.hits = sequence.own_end = sequence.published = 0;
}

void KvBlockManager::watch(CacheEvents* events) {
  State& state = *state_;
  ORRERY_CHECK(state.groups == 1, "KV pool: events of several groups of layers");
  state.reporter = std::make_unique<kv::CacheReporter>(state.config.block_size, *events);
  state.pool.listener = state.reporter.get();
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
    ORRERY_CHECK(end == std::min(sequence.begin, sequence.hits),
                 "KV pool: prefix runs do not reach the first block that is held");
    const std::int32_t own = sequence.private_begin();
    count(sequence.last_own, sequence.own_begin(), own);
    held += sequence.own_end - own + sequence.states;
  }
  ORRERY_CHECK(held + free_blocks() == usable_blocks(), "KV pool: blocks held and free do not add up");
  if (state.pool.nameless != kNone) nodes.push_back(state.pool.nameless);
  state.pool.check(holders, std::move(nodes));
}

}  // namespace orrery
