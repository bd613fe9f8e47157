#include "sim/schedulers/tensorrt_llm_kv.h"

#include <limits>

#include "sim/schedulers/tensorrt_llm_kv_state.h"

namespace orrery {

using trtllm::Block;
using trtllm::BlockKey;
using trtllm::Id;
using trtllm::kFirstRoot;
using trtllm::kNone;
using trtllm::Piece;
using trtllm::Sequence;

BlockKey TensorRtLlmKvPool::State::key_of(const Sequence& s, std::int64_t index, std::int32_t tokens) const {
  BlockKey key;
  key.tokens = tokens;
  const std::int64_t begin = index * config.block_size, end = begin + tokens;
  const auto add = [&](std::uint64_t id, std::int64_t until, bool own) {
    key.pieces.push_back({id, static_cast<std::int32_t>(until - begin), own});
  };
  std::int64_t at = begin;
  while (at < std::min(end, s.named)) {
    const std::int64_t place = at / s.name_size;
    const std::int64_t until = s.stream ? end : std::min({(place + 1) * s.name_size, end, s.named});
    add(s.stream ? s.stream_id : s.names[static_cast<std::size_t>(place)], until, false);
    at = until;
  }
  if (at < end) add(s.own_id, end, true);
  return key;
}

// A block of its own for a sequence, out of the queue.
Id TensorRtLlmKvPool::State::new_block() {
  tree.allocate(1);
  ++allocated;
  return tree.blocks.make(fresh(1));
}

// §4.2: a full match is shared. Of a partial one the sequence gets a block of its own: a copy, or the block
// itself when it is a leaf that nobody holds.
Id TensorRtLlmKvPool::State::claim(const trtllm::BlockTree::Match& match) {
  const Id found = match.block;
  if (match.partial && !tree.is_idle_leaf(found)) {
    // The block that makes room may be this very one; then its serial is gone.
    const std::uint64_t serial = tree.blocks[found].serial;
    tree.allocate(1);
    ++allocated;
    if (tree.blocks[found].serial == serial && tree.blocks[found].in_host) ++onboarded;
    return tree.blocks.make(fresh(1));
  }
  if (match.partial) {
    tree.detach(found);
    tree.blocks[found].birth = ++births;  // written over
  }
  if (tree.blocks[found].refs++ == 0) {
    tree.take_out(found);
    if (tree.blocks[found].in_host) onboard(found);
  }
  return found;
}

// §4.5: a device block takes its content over, and its place in host memory goes to the end of the queue.
void TensorRtLlmKvPool::State::onboard(Id id) {
  tree.blocks[id].in_host = false;
  tree.allocate(1);
  ++allocated;
  ++onboarded;
  tree.append_run(1, kNone, true);
}

// §4.3: walks the tree along the content; from the first block that is not there on, the sequence's own
// enter. Returns the last node.
Id TensorRtLlmKvPool::State::store(Sequence& s, std::int64_t blocks, std::int64_t end) {
  Id node = s.root;
  std::int64_t first = std::min(s.linked, blocks);
  if (first > 0 && tree.blocks[s.blocks[static_cast<std::size_t>(first - 1)]].in_tree)
    node = s.blocks[static_cast<std::size_t>(first - 1)];
  else
    first = 0;
  s.linked = std::max(first, std::min(blocks, end / config.block_size));
  bool matching = true;
  for (std::int64_t i = first; i < blocks; ++i) {
    BlockKey key = key_of(s, i, tokens_of(i, end));
    const Id found = matching ? tree.find_exact(node, key) : kNone;
    if (found != kNone) {
      node = found;
      continue;
    }
    matching = false;
    const Id own = s.blocks[static_cast<std::size_t>(i)];
    tree.insert(own, node, std::move(key));
    node = own;
  }
  return node;
}

TensorRtLlmKvPool::TensorRtLlmKvPool(const Config& config) {
  ORRERY_CHECK(config.num_blocks >= 1 && config.num_blocks < std::numeric_limits<std::int32_t>::max(),
               "KV pool: num_blocks outside [1, 2^31)");
  ORRERY_CHECK(config.block_size >= 1, "KV pool: block_size must be positive");
  state_ = std::make_unique<State>(config);
}
TensorRtLlmKvPool::TensorRtLlmKvPool(TensorRtLlmKvPool&&) noexcept = default;
TensorRtLlmKvPool::~TensorRtLlmKvPool() = default;

TensorRtLlmKvPool::Handle TensorRtLlmKvPool::open(const KvContent& content) {
  State& state = *state_;
  auto handle = static_cast<Handle>(state.sequences.size());
  if (state.closed.empty()) {
    state.sequences.emplace_back();
  } else {
    handle = state.closed.back();
    state.closed.pop_back();
  }
  Sequence& s = state.sequences[handle];
  s = Sequence{};
  s.open = true;
  s.own_id = ++state.opened;
  if (!content.hash_ids.empty()) {
    ORRERY_CHECK(content.hash_block_size > 0 && content.hash_block_size < (1 << 30),
                 "KV content: hash_block_size outside [1, 2^30)");
    s.name_size = content.hash_block_size;
    s.named = std::min(content.named_tokens,
                       static_cast<std::int64_t>(content.hash_ids.size()) * content.hash_block_size);
    s.names.assign(content.hash_ids.begin(), content.hash_ids.end());
    s.root = trtllm::kHashRoot | static_cast<Id>(content.hash_block_size);
  } else if (content.stream != 0) {
    s.stream = true;
    s.stream_id = content.stream;
    s.named = trtllm::kEndless;
    s.root = trtllm::kStreamRoot;
  }
  return handle;
}

void TensorRtLlmKvPool::close(Handle handle) {
  Sequence& s = state_->at(handle);
  ORRERY_CHECK(s.blocks.empty() && s.more == 0, "KV pool: a closed sequence still holds blocks");
  s.open = false;
  s.names.clear();
  state_->closed.push_back(handle);
}

std::int64_t TensorRtLlmKvPool::num_blocks() const { return state_->config.num_blocks; }
std::int64_t TensorRtLlmKvPool::free_blocks() const { return state_->tree.device.free(); }
TensorRtLlmKvPool::HostUse TensorRtLlmKvPool::host() const {
  const trtllm::BlockTree& tree = state_->tree;
  return {.capacity = tree.host.free(),
          .used = tree.host.idle,
          .offloaded = tree.offloaded,
          .onboarded = state_->onboarded,
          .dropped = tree.dropped};
}
std::int64_t TensorRtLlmKvPool::free_without_offload() const {
  return state_->tree.host.free() > 0 ? state_->tree.device.blank : free_blocks();
}
std::int64_t TensorRtLlmKvPool::allocated_in_total() const { return state_->allocated; }
std::uint64_t TensorRtLlmKvPool::tree_version() const { return state_->tree.version(); }

std::int64_t TensorRtLlmKvPool::add_sequence(Handle handle, std::int64_t tokens) {
  State& state = *state_;
  Sequence& s = state.at(handle);
  ORRERY_CHECK(s.blocks.empty() && s.more == 0, "KV pool: a sequence is added twice");
  const Config& c = state.config;
  const std::int64_t total = state.blocks_for(tokens);
  std::int64_t found = 0;
  if (c.block_reuse) {
    Id node = s.root;
    for (std::int64_t i = 0; i < state.blocks_for(tokens - 1); ++i) {
      const BlockKey key = state.key_of(s, i, state.tokens_of(i, tokens - 1));
      const auto match = state.tree.find(node, key, c.block_size, c.partial_reuse, c.copy_on_partial_reuse);
      if (match.block == kNone) break;
      found += match.tokens;
      s.blocks.push_back(state.claim(match));
      if (match.partial) break;
      node = match.block;
      s.linked = i + 1;
    }
    const std::int64_t named = state.named_blocks(s, tokens);
    while (static_cast<std::int64_t>(s.blocks.size()) < named) s.blocks.push_back(state.new_block());
  }
  s.more = total - static_cast<std::int64_t>(s.blocks.size());
  state.tree.allocate(s.more);
  state.allocated += s.more;
  return found;
}

void TensorRtLlmKvPool::grow_unattributed(std::int64_t blocks) {
  state_->tree.allocate(blocks);
  state_->allocated += blocks;
  state_->unattributed += blocks;
}

// They hold nothing that anybody could find, as blocks do that were never used and stand at the front too.
void TensorRtLlmKvPool::shrink_unattributed(std::int64_t blocks) {
  ORRERY_CHECK(blocks >= 0 && blocks <= state_->unattributed, "KV pool: more is taken back than was given");
  state_->tree.device.blank += blocks;
  state_->unattributed -= blocks;
}

void TensorRtLlmKvPool::store(Handle handle, std::int64_t tokens) {
  State& state = *state_;
  if (!state.config.block_reuse) return;
  Sequence& s = state.at(handle);
  const std::int64_t full = tokens / state.config.block_size;
  const auto records = static_cast<std::int64_t>(s.blocks.size());
  const std::int64_t blocks = std::min(full, records);
  state.store(s, blocks, blocks * state.config.block_size);
}

void TensorRtLlmKvPool::release(Handle handle, std::int64_t total_blocks, std::int64_t stored_tokens,
                                bool comes_back) {
  State& state = *state_;
  Sequence& s = state.at(handle);
  const auto attributed = static_cast<std::int64_t>(s.blocks.size()) + s.more;
  if (!state.keeps_its_front(s)) stored_tokens = 0;
  ORRERY_CHECK(total_blocks >= attributed, "KV pool: a sequence gives back fewer blocks than it got");
  state.unattributed -= total_blocks - attributed;
  ORRERY_CHECK(state.unattributed >= 0, "KV pool: a sequence gives back more blocks than it got");
  const std::int64_t stored = state.blocks_for(stored_tokens);
  ORRERY_CHECK(stored <= total_blocks, "KV pool: more is stored than there is");
  s.more = 0;
  if (!state.config.block_reuse) {  // nothing is ever found: all free blocks are alike
    state.tree.append_run(total_blocks, kNone);
    return;
  }
  const std::int64_t findable = std::min(stored, comes_back ? stored : state.named_blocks(s, stored_tokens));
  while (static_cast<std::int64_t>(s.blocks.size()) < findable) {
    s.blocks.push_back(state.tree.blocks.make(state.fresh(1)));
  }
  const auto records = static_cast<std::int64_t>(s.blocks.size());
  const Id last = state.store(s, std::min(stored, records), stored_tokens);
  state.tree.append_run(total_blocks - records, stored > records ? last : kNone);
  for (std::int64_t i = records - 1; i >= s.gone(); --i) {
    const Id id = s.blocks[static_cast<std::size_t>(i)];
    if (--state.tree.blocks[id].refs > 0) continue;
    if (state.tree.blocks[id].in_tree) {
      state.tree.append(id);
    } else {  // a duplicate, or the tokens behind what is stored
      state.tree.blocks.drop(id);
      state.tree.append_run(1, kNone);
    }
  }
  s.blocks.clear();
  s.births.clear();
  s.linked = 0;
}

std::optional<std::uint64_t> TensorRtLlmKvPool::first_missing(Handle handle, std::int64_t tokens) {
  State& state = *state_;
  Sequence& s = state.at(handle);
  const bool still_there = s.seen > 0 && state.tree.blocks[s.seen_node].serial == s.seen_serial;
  Id node = still_there ? s.seen_node : s.root;
  for (std::int64_t i = still_there ? s.seen : 0; i < tokens / state.config.block_size; ++i) {
    const BlockKey key = state.key_of(s, i, state.config.block_size);
    const Id found = state.tree.find_exact(node, key);
    if (found != kNone) {
      node = found;
      s.seen_node = node;
      s.seen_serial = state.tree.blocks[node].serial;
      s.seen = i + 1;
      continue;
    }
    Digest name;
    name.add(static_cast<std::uint64_t>(node));
    for (const Piece& piece : key.pieces) {
      name.add(piece.id);
      name.add((static_cast<std::int64_t>(piece.end) << 1) | (piece.own ? 1 : 0));
    }
    return name.value();
  }
  return std::nullopt;
}

void TensorRtLlmKvPool::begin_simulation() { ++state_->simulation; }

std::int64_t TensorRtLlmKvPool::simulate_release(Handle handle, std::int64_t total_blocks) {
  State& state = *state_;
  const Sequence& s = state.at(handle);
  std::int64_t freed = total_blocks - static_cast<std::int64_t>(s.blocks.size());
  for (auto i = static_cast<std::size_t>(s.gone()); i < s.blocks.size(); ++i) {
    Block& b = state.tree.blocks[s.blocks[i]];
    if (b.simulation != state.simulation) {
      b.simulation = state.simulation;
      b.simulated_refs = b.refs;
    }
    if (--b.simulated_refs == 0) ++freed;
  }
  return freed;
}

void TensorRtLlmKvPool::check_invariants() const {
  const State& state = *state_;
  std::vector<std::int32_t> refs(state.tree.blocks.slots(), 0);
  std::int64_t held = state.unattributed;
  for (const Sequence& s : state.sequences) {
    if (!s.open) continue;
    held += s.more;
    for (auto i = static_cast<std::size_t>(s.gone()); i < s.blocks.size(); ++i)
      held += refs[s.blocks[i]]++ == 0 ? 1 : 0;
  }
  std::int64_t idle = 0;
  std::size_t records = 0;
  std::vector<char> queued(refs.size(), 0);
  for (const bool in_host : {true, false}) {
    idle = 0;
    const trtllm::BlockTree::Queue& queue = in_host ? state.tree.host : state.tree.device;
    for (Id id = queue.head, before = kNone; id != kNone;
         before = id, id = state.tree.blocks[id].queue.next) {
      const Block& b = state.tree.blocks[id];
      ORRERY_CHECK(b.queue.prev == before && refs[id] == 0 && b.refs == 0 && b.in_host == in_host,
                   "KV pool: free queue");
      queued[id] = 1;
      ++records;
      idle += b.run > 0 ? b.run : 1;
    }
    ORRERY_CHECK(!in_host || idle == queue.idle, "KV pool: count in host memory");
  }
  ORRERY_CHECK(state.tree.host.free() == (state.config.block_reuse ? state.config.host_blocks : 0),
               "KV pool: blocks in host memory");
  ORRERY_CHECK(idle == state.tree.device.idle && state.tree.device.blank >= 0, "KV pool: free count");
  ORRERY_CHECK(held + free_blocks() == num_blocks(), "KV pool: blocks held and free do not add up");
  for (Id id = 0; id < refs.size(); ++id) {
    if (refs[id] == 0 && queued[id] == 0) continue;
    const Block& b = state.tree.blocks[id];
    records += refs[id] > 0 ? 1 : 0;
    ORRERY_CHECK(b.refs == refs[id], "KV pool: references");
    if (!b.in_tree || b.parent >= kFirstRoot) continue;
    ORRERY_CHECK((refs[b.parent] > 0 || queued[b.parent] != 0) && state.tree.blocks[b.parent].in_tree,
                 "KV pool: a stored block outlived its parent");
  }
  ORRERY_CHECK(records == state.tree.blocks.live(), "KV pool: a block is lost");
}

std::uint64_t TensorRtLlmKvPool::state_digest() const {
  Digest digest;
  digest.add(state_->allocated);
  state_->tree.digest(digest);
  return digest.value();
}

}  // namespace orrery
