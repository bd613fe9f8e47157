#include "live/kv_block_map.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace orrery {

namespace {
constexpr std::int32_t to_come = -1;
}

KvBlockMap::KvBlockMap(std::int64_t blocks, std::int32_t block_size)
    : block_size_(block_size), blocks_(static_cast<std::size_t>(blocks)) {
  ORRERY_CHECK(blocks > 1 && blocks <= std::numeric_limits<std::int32_t>::max() && block_size > 0,
               "a pool of KV blocks");
  for (auto id = static_cast<std::int32_t>(blocks - 1); id > 0; --id) free_.push_back(id);
}

KvBlockMap::Table& KvBlockMap::table_of(SequenceId sequence) {
  if (sequence.value() >= tables_.size()) tables_.resize(sequence.value() + 1);
  return tables_[sequence.value()];
}

// ------------------------------------------------------------------------------------------------- names

void KvBlockMap::name(Table& table, const Request& request) const {
  table.beginnings.clear();
  table.named_blocks = 0;
  if (!request.hash_ids.empty()) {
    const std::int64_t covered = static_cast<std::int64_t>(request.hash_ids.size()) * request.hash_block_size;
    table.named_blocks = std::min<std::int64_t>(request.prompt_tokens, covered) / block_size_;
    table.tokens_of_name = request.hash_block_size;
    std::uint64_t beginning = beginning_by_ids(request.hash_block_size);
    for (const std::uint64_t id : request.hash_ids) {
      beginning = longer_beginning(beginning, id);
      table.beginnings.push_back(beginning);
    }
  } else if (request.stream != 0) {
    table.named_blocks = std::numeric_limits<std::int32_t>::max();
    table.tokens_of_name = 0;
    table.beginnings.push_back(longer_beginning(beginning_by_stream(), request.stream));
  }
}

// A block has the name of its last token (kv_cache_reporter.cpp, place_of).
KvBlockMap::Key KvBlockMap::key_of(const Table& table, std::int64_t block) const {
  const std::int64_t last = (block + 1) * block_size_ - 1;
  const std::int64_t name = table.tokens_of_name == 0 ? 0 : last / table.tokens_of_name;
  return {table.beginnings[static_cast<std::size_t>(name)], static_cast<std::int32_t>(block)};
}

// What nobody can find any more, and nobody holds, is free.
void KvBlockMap::holds(const Reach& reach) {
  const std::int64_t to = reach.to / block_size_, from = reach.from / block_size_;
  const auto known = reach_.find(reach.beginning);
  const std::int64_t before = known == reach_.end() ? from : known->second;
  for (std::int64_t block = to; block < before; ++block) {
    const auto it = named_.find({reach.beginning, static_cast<std::int32_t>(block)});
    if (it == named_.end() || blocks_[static_cast<std::size_t>(it->second)].holders > 0) continue;
    const std::int32_t id = it->second;
    forget_name(id);
    give_back(id);
  }
  if (to > from)
    reach_[reach.beginning] = to;
  else if (known != reach_.end())
    reach_.erase(known);
}

// --------------------------------------------------------------------------------------------------- blocks

std::int32_t KvBlockMap::take() {
  while (free_.empty()) {
    if (join_copies()) continue;
    ORRERY_CHECK(!kept_order_.empty(), "KV blocks: the pool promised one and there is none");
    Table& oldest = tables_[kept_order_.front()];
    if (oldest.kept.empty())
      kept_order_.pop_front();
    else
      drop_kept(oldest, oldest.kept.size() - 1);
  }
  const std::int32_t id = free_.back();
  free_.pop_back();
  blocks_[static_cast<std::size_t>(id)].holders = 1;
  return id;
}

// Two copies of one content become one. Not of this plan's: their rows go where their sequences say.
bool KvBlockMap::join_copies() {
  for (std::size_t i = copies_.size(); i-- > 0;) {
    const std::int32_t id = copies_[i];
    Block& block = blocks_[static_cast<std::size_t>(id)];
    const std::int32_t first = block.named ? named_.find(block.key)->second : id;
    if (first == id && block.next == 0) {  // no copy (any more)
      copies_.erase(copies_.begin() + static_cast<std::ptrdiff_t>(i));
      continue;
    }
    const std::int32_t other = first == id ? block.next : first;
    Block& kept = blocks_[static_cast<std::size_t>(other)];
    if (block.plan == plan_ || kept.plan == plan_) continue;
    const auto place = static_cast<std::size_t>(block.key.block);
    for (Table& t : tables_) {
      if (!t.live || t.blocks.size() <= place || t.blocks[place] != id) continue;
      t.blocks[place] = other;
      ++kept.holders;
      --block.holders;
    }
    ORRERY_CHECK(block.holders == 0, "KV blocks: a copy is held by those at its place");
    forget_name(id);
    give_back(id);
    copies_.erase(copies_.begin() + static_cast<std::ptrdiff_t>(i));
    return true;
  }
  return false;
}

void KvBlockMap::give_back(std::int32_t id) {
  blocks_[static_cast<std::size_t>(id)] = {};
  free_.push_back(id);
}

// From among the copies under its key.
void KvBlockMap::forget_name(std::int32_t id) {
  Block& block = blocks_[static_cast<std::size_t>(id)];
  const auto it = named_.find(block.key);
  if (it->second != id) {
    std::int32_t before = it->second;
    while (blocks_[static_cast<std::size_t>(before)].next != id)
      before = blocks_[static_cast<std::size_t>(before)].next;
    blocks_[static_cast<std::size_t>(before)].next = block.next;
  } else if (block.next != 0) {
    it->second = block.next;
  } else {
    named_.erase(it);
  }
  block.named = false;
  block.next = 0;
}

void KvBlockMap::let_go(std::int32_t id) {
  Block& block = blocks_[static_cast<std::size_t>(id)];
  if (--block.holders > 0) return;
  if (block.named) {
    const bool only = block.next == 0 && named_.find(block.key)->second == id;
    const auto reach = reach_.find(block.key.beginning);
    if (only && reach != reach_.end() && reach->second > block.key.block) return;  // somebody may find it
    forget_name(id);
  }
  give_back(id);
}

void KvBlockMap::drop_kept(Table& table, std::size_t from) {
  for (; table.kept.size() > from; table.kept.pop_back()) give_back(table.kept.back());
}

// Of what a sequence computed, whole blocks of private content can be found by itself again.
void KvBlockMap::preempt(SequenceId sequence) {
  if (!begun(sequence)) return;
  Table& t = tables_[sequence.value()];
  const std::int64_t full = std::min(t.tokens / block_size_, static_cast<std::int64_t>(t.blocks.size()));
  const std::int64_t first = std::min(t.named_blocks, full);
  t.kept.clear();
  t.kept_from = first;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(t.blocks.size()); ++i) {
    const std::int32_t id = t.blocks[static_cast<std::size_t>(i)];
    if (i < first || i >= full) {
      let_go(id);
    } else {
      blocks_[static_cast<std::size_t>(id)] = {.holders = 0, .kept = true, .key = {}};
      t.kept.push_back(id);
    }
  }
  if (!t.kept.empty()) kept_order_.push_back(sequence.value());
  t.blocks.clear();
  t.live = false;
}

std::int64_t KvBlockMap::findable(const Request& request) const {
  Table t;
  name(t, request);
  const std::int64_t most = std::min<std::int64_t>(t.named_blocks, (request.prompt_tokens - 1) / block_size_);
  for (std::int64_t i = 0; i < most; ++i) {
    const Key key = key_of(t, i);
    const auto reach = reach_.find(key.beginning);
    if (reach == reach_.end() || reach->second <= i || !named_.contains(key)) return i;
  }
  return most;
}

void KvBlockMap::begin(SequenceId sequence, const Request& request, std::int64_t found_tokens) {
  Table& t = table_of(sequence);
  ORRERY_CHECK(!t.live && found_tokens % block_size_ == 0, "KV blocks: a sequence begins with whole blocks");
  name(t, request);
  t.live = true;
  t.tokens = found_tokens;
  const std::int64_t found = found_tokens / block_size_;
  for (std::int64_t i = 0; i < found; ++i) {
    std::int32_t id = to_come;
    if (i < t.named_blocks) {
      const auto it = named_.find(key_of(t, i));
      if (it != named_.end()) ++blocks_[static_cast<std::size_t>(id = it->second)].holders;
    } else if (const std::int64_t place = i - t.kept_from;
               place >= 0 && place < static_cast<std::int64_t>(t.kept.size())) {
      id = t.kept[static_cast<std::size_t>(place)];
      blocks_[static_cast<std::size_t>(id)] = {.holders = 1, .key = {}};
    }
    t.awaits |= id == to_come;
    t.blocks.push_back(id);
  }
  const std::int64_t taken =
      std::clamp<std::int64_t>(found - t.kept_from, 0, static_cast<std::int64_t>(t.kept.size()));
  t.kept.erase(t.kept.begin(), t.kept.begin() + taken);
  drop_kept(t, 0);
}

// What was found in another prompt of the same plan has its blocks by now.
void KvBlockMap::resolve(Table& t) {
  t.awaits = false;
  for (std::int64_t i = 0; i < static_cast<std::int64_t>(t.blocks.size()); ++i) {
    std::int32_t& id = t.blocks[static_cast<std::size_t>(i)];
    if (id != to_come) continue;
    const auto it = i < t.named_blocks ? named_.find(key_of(t, i)) : named_.end();
    if (it != named_.end()) {
      ++blocks_[static_cast<std::size_t>(id = it->second)].holders;
    } else {
      id = take();
      ++missed_;
    }
  }
}

void KvBlockMap::cover(SequenceId sequence, std::int64_t tokens) {
  Table& t = tables_[sequence.value()];
  ORRERY_CHECK(t.live, "KV blocks: a sequence that grows has begun");
  if (t.awaits) resolve(t);
  while (static_cast<std::int64_t>(t.blocks.size()) * block_size_ < tokens) t.blocks.push_back(take());
  register_full(t, tokens);
  t.tokens = tokens;
}

void KvBlockMap::register_full(Table& t, std::int64_t tokens) {
  const std::int64_t end = std::min(tokens / block_size_, t.named_blocks);
  for (std::int64_t i = t.tokens / block_size_; i < end; ++i) {
    const std::int32_t id = t.blocks[static_cast<std::size_t>(i)];
    Block& block = blocks_[static_cast<std::size_t>(id)];
    const Key key = key_of(t, i);
    const auto [it, first] = named_.try_emplace(key, id);
    if (!first) {
      Block& other = blocks_[static_cast<std::size_t>(it->second)];
      if (other.holders == 0) {  // nobody's, and from now on not needed
        give_back(it->second);
        it->second = id;
      } else {
        block.next = other.next;
        other.next = id;
        copies_.push_back(id);
      }
    }
    block.named = true;
    block.plan = plan_;
    block.key = key;
  }
}

void KvBlockMap::end(SequenceId sequence) {
  if (sequence.value() >= tables_.size()) return;
  Table& t = tables_[sequence.value()];
  if (t.live)
    for (const std::int32_t id : t.blocks) let_go(id);
  drop_kept(t, 0);
  t.blocks.clear();
  t.live = false;
}

void KvBlockMap::check_invariants() const {
  std::vector<std::int32_t> holders(blocks_.size(), 0);
  std::int64_t kept = 0, idle = 0, held = 0;
  for (const Table& t : tables_) {
    for (const std::int32_t id : t.blocks)
      if (t.live) ++holders[static_cast<std::size_t>(id)];
    kept += static_cast<std::int64_t>(t.kept.size());
    for (const std::int32_t id : t.kept)
      ORRERY_CHECK(blocks_[static_cast<std::size_t>(id)].kept, "KV blocks: kept for nobody");
  }
  for (std::size_t id = 1; id < blocks_.size(); ++id) {
    const Block& b = blocks_[id];
    ORRERY_CHECK(b.holders == holders[id], "KV blocks: holders do not add up");
    held += b.holders > 0;
    idle += b.holders == 0 && b.named;
    if (b.named) {
      const auto it = named_.find(b.key);
      std::int32_t copy = it == named_.end() ? 0 : it->second;
      ORRERY_CHECK(b.holders > 0 || (copy == static_cast<std::int32_t>(id) && b.next == 0),
                   "KV blocks: a copy that is nobody's beside others");
      while (copy != 0 && copy != static_cast<std::int32_t>(id))
        copy = blocks_[static_cast<std::size_t>(copy)].next;
      ORRERY_CHECK(copy != 0, "KV blocks: a name is not this block's");
    }
  }
  for (const std::int32_t id : free_) {
    const Block& b = blocks_[static_cast<std::size_t>(id)];
    ORRERY_CHECK(b.holders == 0 && !b.kept && !b.named, "KV blocks: a free one is somebody's");
  }
  ORRERY_CHECK(held + idle + kept + free_blocks() == usable_blocks(), "KV blocks: some are lost");
  ORRERY_CHECK(holders[0] == 0, "KV blocks: the null block is nobody's");
}

}  // namespace orrery
