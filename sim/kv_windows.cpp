// Groups of layers with a sliding window, as vLLM's SlidingWindowManager keeps them (single_type_kv_cache_
// manager.py and kv_cache_coordinator.py of 0.24.0; ../shared/reference/vllm_0_24.md §2.7): blocks that no
// later token can see go back at once, and a hit needs a window's worth of blocks in front of its end, no
// more. All groups share the pool and its free list.
#include <algorithm>

#include "sim/kv_pool_state.h"

namespace orrery {

using kv::Extent;
using kv::Id;
using kv::kNone;
using kv::to_block;

// The content node that names a block, and the block where the next one begins; kNone when none does yet.
Id KvBlockManager::State::node_of(const Sequence& sequence, std::int32_t block,
                                  std::int32_t* node_end) const {
  if (block >= sequence.named_blocks) {
    *node_end = kv::kAllBlocks;
    return sequence.private_node;
  }
  const std::int64_t size = config.block_size;
  const std::int64_t at = ((std::int64_t{block} + 1) * size - 1) / sequence.node_tokens;
  const std::int64_t end = (at + 1) * sequence.node_tokens / size;
  *node_end = static_cast<std::int32_t>(std::min<std::int64_t>(end, sequence.named_blocks));
  return sequence.path[static_cast<std::size_t>(at)];
}

// Like walk(), for content of which earlier blocks may be gone while later ones are there: each block in the
// copy registered first.
template <class Visit>
std::int32_t KvBlockManager::State::walk_window(const Sequence& sequence, std::int32_t begin,
                                                std::int32_t end, Visit&& visit) const {
  for (std::int32_t at = begin; at < end;) {
    std::int32_t to = end;
    const Id node = node_of(sequence, at, &to);
    if (node == kNone) return at;
    to = std::min(to, end);
    Id found = kNone;
    for (Id id = pool.tree[node].copies.first; id != kNone; id = pool.extents[id].copies.next) {
      const Extent& extent = pool.extents[id];
      if (extent.begin > at) {
        to = std::min(to, extent.begin);  // from there on this copy is the first
      } else if (extent.end > at) {
        to = std::min(to, extent.end);
        found = id;
        break;
      }
    }
    if (found == kNone) return at;
    visit(found, at, to);
    at = to;
  }
  return end;
}

// The least block from `floor` on such that it and all after it up to `end` are resident.
std::int32_t KvBlockManager::State::resident_from(const Sequence& sequence, std::int32_t floor,
                                                  std::int32_t end) const {
  std::int32_t at = end, ignored = 0;
  while (at > floor) {
    const Id node = node_of(sequence, at - 1, &ignored);
    if (node == kNone) return at;
    std::int32_t from = at;
    for (Id id = pool.tree[node].copies.first; id != kNone; id = pool.extents[id].copies.next) {
      const Extent& extent = pool.extents[id];
      if (extent.begin < at && extent.end >= at) from = std::min(from, extent.begin);
    }
    if (from == at) return at;
    at = from;
  }
  return floor;
}

// One past the last resident block before `end`; 0 when there is none.
std::int32_t KvBlockManager::State::last_resident(const Sequence& sequence, std::int32_t end) const {
  const auto last_of = [&](Id node, std::int32_t limit) {
    std::int32_t last = 0;
    for (Id id = pool.tree[node].copies.first; id != kNone; id = pool.extents[id].copies.next) {
      const Extent& extent = pool.extents[id];
      if (extent.begin < limit) last = std::max(last, std::min(extent.end, limit));
    }
    return last;
  };
  if (end > sequence.named_blocks) {
    const std::int32_t last = sequence.private_node == kNone ? 0 : last_of(sequence.private_node, end);
    if (last > sequence.named_blocks) return last;
    end = sequence.named_blocks;
  }
  if (end == 0 || sequence.path.empty()) return 0;
  std::int64_t at = (std::int64_t{end} * config.block_size - 1) / sequence.node_tokens;
  for (; at >= 0; --at) {
    const std::int32_t last = last_of(sequence.path[static_cast<std::size_t>(at)], end);
    if (last > 0) return last;
  }
  return 0;
}

// From the right: the longest prefix, at most `limit` blocks, whose last window of blocks is resident in all
// groups with a window; a shorter one counts when it is resident from block 0 on. With a drafter a block more
// has to be, and is not taken (`_contiguous_blocks_for_hit`).
std::int32_t KvBlockManager::State::longest_in_windows(Handle handle, std::int32_t limit) {
  const bool drops = config.drops_last && !config.cached_states;
  std::int32_t end = limit;
  while (end > 0) {
    const std::int32_t floor = std::max(0, end - window_blocks() - (drops ? 1 : 0));
    std::int32_t from = floor;
    for (std::int32_t g = config.full_groups; g < groups; ++g)
      from = std::max(from, resident_from(at(handle, g), floor, end));
    if (from == floor) return drops ? end - 1 : end;
    std::int32_t next = from - 1;  // block from − 1 is missing somewhere
    for (std::int32_t g = config.full_groups; g < groups && next > 0; ++g)
      next = std::min(next, last_resident(at(handle, g), next));
    end = next;
  }
  return 0;
}

// Full attention first, which bounds the others; with one window besides, one round is the fixed point
// (`is_simple_hybrid`).
KvBlockManager::Hit KvBlockManager::State::lookup_in_groups(Handle handle, std::int32_t limit) {
  std::int32_t length = limit;
  for (std::int32_t g = 0; g < config.full_groups; ++g)
    length = walk(at(handle, g), length, [](Id, std::int32_t, std::int32_t) {});
  Hit hit;
  // A drafting network's layers attend: the groups with states know no last block to leave out.
  if (config.cached_states && config.drops_last) length = std::max(0, length - 1);
  if (config.cached_states) hit.attended = length;
  length = longest_in_windows(handle, length);
  hit.blocks = length;
  hit.fresh = config.cached_states && length > 0 && is_fresh(at(handle, groups - 1), length - 1);
  for (std::int32_t g = 0; g < groups; ++g) {
    if (!has_window(g)) {
      hit.idle += idle_within(at(handle, g), length);
      continue;
    }
    walk_window(at(handle, g), std::max(0, length - window_blocks()), length,
                [&](Id id, std::int32_t from, std::int32_t to) {
                  if (pool.extents[id].holders == 0) hit.idle += to - from;
                });
  }
  return hit;
}

void KvBlockManager::State::take_in_groups(Handle handle, std::int32_t blocks, std::int32_t begin) {
  for (std::int32_t g = 0; g < groups; ++g) {
    Sequence& sequence = at(handle, g);
    const auto take = [&](Id id, std::int32_t from, std::int32_t to) { hold(sequence, id, from, to); };
    if (has_window(g)) sequence.begin = std::max({0, blocks - window_blocks(), begin});
    const std::int32_t found =
        has_window(g) ? walk_window(sequence, sequence.begin, blocks, take) : walk(sequence, blocks, take);
    ORRERY_CHECK(found == blocks, "KV pool: take_prefix of blocks that are not resident (any more)");
    sequence.hits = sequence.own_end = sequence.published = std::max(blocks, sequence.begin);
  }
}

KvBlockManager::Fetch KvBlockManager::fetch_of(Handle handle, Hit hit, std::int64_t total,
                                               std::int64_t begin) const {
  const Config& config = state_->config;
  if (config.window_groups == 0) return {total - hit.blocks, hit.idle};
  const std::int64_t kept = std::max(hit.blocks, begin);
  Fetch fetch{config.full_groups * (total - hit.blocks) + config.window_groups * (total - kept), 0};
  const std::int32_t end = to_block(hit.blocks);
  const std::int32_t from = std::max({0, end - state_->window_blocks(), to_block(begin)});
  for (std::int32_t g = 0; g < state_->groups; ++g) {
    const State::Sequence& sequence = state_->at(handle, g);
    if (!state_->has_window(g)) {
      fetch.idle += state_->idle_within(sequence, end);
      continue;
    }
    state_->walk_window(sequence, from, end, [&](Id id, std::int32_t a, std::int32_t b) {
      if (state_->pool.extents[id].holders == 0) fetch.idle += b - a;
    });
  }
  return fetch;
}

void KvBlockManager::take_fetched(Handle handle, std::int64_t tokens, Hit hit, std::int64_t total,
                                  std::int64_t begin) {
  if (state_->config.window_groups == 0) {
    take_prefix(handle, tokens, hit);
    return grow(handle, total - hit.blocks);
  }
  State& state = *state_;
  ORRERY_CHECK(state.at(handle).own_end == 0, "KV pool: a fetch by a sequence that holds blocks");
  state.take_in_groups(handle, to_block(hit.blocks), to_block(begin));
  for (std::int32_t g = 0; g < state.groups; ++g) {
    State::Sequence& sequence = state.at(handle, g);
    state.allocate(total - sequence.own_end);
    sequence.own_end = to_block(total);
  }
}

// Of the extents that end with `last` and reach back to `begin`, those before `place` lose a holder. What
// stays ends with the id returned; kNone: nothing stays.
Id KvBlockManager::State::let_go_front(Id last, std::int32_t begin, std::int32_t place) {
  Id id = last;
  while (pool.extents[id].begin >= place) id = pool.extents[id].run.prev;
  const bool all = id == last && pool.extents[id].end <= place;
  pool.let_go(pool.part_before(id, place), begin);
  return all ? kNone : last;
}

// `remove_skipped_blocks`: the blocks before `place` go back, tail first. All of them are full and hashed.
void KvBlockManager::State::slide(Sequence& sequence, std::int32_t place) {
  if (place <= sequence.begin) return;
  if (config.cached_states && place > sequence.own_end) publish(sequence, place);
  ORRERY_CHECK(!sequence.counted && place <= sequence.own_end, "KV pool: a window beyond its sequence");
  const std::int32_t own = sequence.own_begin(), mine = sequence.private_begin();
  if (place > mine) {
    if (config.prefix_caching) {
      release_private(sequence, mine, place);
    } else {
      pool.blank += place - mine;
    }
  }
  if (sequence.last_own != kNone && place > own)
    sequence.last_own = let_go_front(sequence.last_own, own, std::min(place, mine));
  std::int32_t end = sequence.hits;
  for (Id* link = &sequence.last_run; *link != kNone;) {
    kv::PrefixRun& run = runs[*link];
    const std::int32_t begin = run.begin;
    if (begin < place && end <= place) {
      const Id before = run.before;
      pool.let_go(run.last, begin);
      runs.drop(*link);
      *link = before;
    } else {
      if (begin < place) {
        let_go_front(run.last, begin, place);
        run.begin = place;
      }
      link = &run.before;
    }
    end = begin;
  }
  sequence.begin = place;
}

void KvBlockManager::slide_window(Handle handle, std::int64_t begin) {
  for (std::int32_t g = state_->config.full_groups; g < state_->groups; ++g)
    state_->slide(state_->at(handle, g), to_block(begin));
}

bool KvBlockManager::count_window(Handle handle) {
  State& state = *state_;
  for (std::int32_t g = state.config.full_groups; g < state.groups; ++g) {
    const State::Sequence& sequence = state.at(handle, g);
    if (sequence.begin < sequence.private_begin()) return false;
    // The next turn of a session looks for the states that this one leaves on its way.
    if (state.config.cached_states && sequence.named_blocks == kv::kAllBlocks) return false;
  }
  for (std::int32_t g = state.config.full_groups; g < state.groups; ++g) {
    State::Sequence& sequence = state.at(handle, g);
    state.unattributed += sequence.own_end - sequence.begin;
    sequence.hits = sequence.own_end = sequence.published = sequence.begin;
    sequence.counted = true;
  }
  return true;
}

void KvBlockManager::slide_counted(std::int64_t blocks) {
  State& state = *state_;
  blocks *= state.config.window_groups;
  state.unattributed -= blocks;
  ORRERY_CHECK(state.unattributed >= 0, "KV pool: windows left more blocks than they held");
  if (state.config.prefix_caching) {
    state.pool.add_nameless(blocks);
  } else {
    state.pool.blank += blocks;
  }
}

}  // namespace orrery
