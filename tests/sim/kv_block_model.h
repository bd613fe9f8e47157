// vLLM's KV pool block by block, as its block_pool.py has it: one record per block, a free list of blocks, a
// map from block hash to the blocks that carry it in order of insertion. Slow and plain on purpose: it shares
// no idea with sim/kv_block_manager.cpp, which is compared with it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <utility>
#include <vector>

#include "base/digest.h"

namespace orrery::kv_test {

// Deliberate mistakes, to see that the comparison notices them.
enum class Mistake {
  none,
  free_head_first,    // a sequence's blocks freed from its first to its last
  append_unhashed,    // blocks without hash go to the tail of the free list, too
  newest_copy_first,  // of two copies the one registered last is used
  no_duplicates,      // a block whose hash is already in the cache gets none
  limit_counts_all,   // a look-up may hit the block of the last token
};

struct Block {
  int references = 0;
  bool hashed = false;
  std::uint64_t hash = 0;
  std::uint64_t label = 0;  // content as KvBlockManager::state_digest() names it
  std::int64_t index = 0;   // in the sequence
  std::list<int>::iterator place{};
};

// One sequence: its tokens as values, so that equal content is equal because the tokens are.
struct ModelSequence {
  std::vector<std::uint64_t> hash_ids;
  std::int64_t hash_block_size = 512;
  std::uint64_t stream = 0;
  std::int64_t named_tokens = 0;
  std::uint64_t serial = 0;
  std::vector<int> blocks;
  std::int64_t hashed = 0;  // the first so many of them carry a hash
  std::vector<std::uint64_t> hashes;

  std::uint64_t token(std::int64_t position) const {
    Digest digest;
    if (!hash_ids.empty() && position < named_tokens) {
      digest.add(hash_ids[static_cast<std::size_t>(position / hash_block_size)]);
      digest.add(hash_block_size);
      digest.add(position % hash_block_size);
    } else if (hash_ids.empty() && stream != 0) {
      digest.add(std::int64_t{-1});
      digest.add(stream);
      digest.add(position);
    } else {
      digest.add(std::int64_t{-2});
      digest.add(serial);
      digest.add(position);
    }
    return digest.value();
  }
};

class BlockModel {
 public:
  BlockModel(std::int64_t num_blocks, std::int64_t block_size, bool caching, Mistake mistake)
      : size_(block_size), caching_(caching), mistake_(mistake),
        blocks_(static_cast<std::size_t>(num_blocks)) {
    for (int i = 1; i < static_cast<int>(num_blocks); ++i) block(i).place = free_.insert(free_.end(), i);
  }

  std::int64_t free_blocks() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t evicted() const { return evicted_; }
  std::int64_t allocated() const { return allocated_; }

  // Blocks found, and how many of them nobody holds.
  std::pair<std::int64_t, std::int64_t> lookup(ModelSequence& sequence, std::int64_t tokens) {
    std::pair<std::int64_t, std::int64_t> hit{0, 0};
    const std::int64_t limit = (mistake_ == Mistake::limit_counts_all ? tokens : tokens - 1) / size_;
    for (std::int64_t i = 0; i < limit; ++i) {
      const auto found = cached_.find(hash(sequence, i));
      if (found == cached_.end()) break;
      ++hit.first;
      if (block(pick(found->second)).references == 0) ++hit.second;
    }
    return hit;
  }

  void take(ModelSequence& sequence, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) {
      const int id = pick(cached_.at(hash(sequence, i)));
      if (block(id).references++ == 0) free_.erase(block(id).place);
      sequence.blocks.push_back(id);
    }
    sequence.hashed = count;
  }

  void allocate(ModelSequence& sequence, std::int64_t count) {
    for (; count > 0; --count) {
      const int id = free_.front();
      free_.pop_front();
      ++allocated_;
      if (block(id).hashed) {
        forget(id);
        ++evicted_;
      }
      block(id).references = 1;
      sequence.blocks.push_back(id);
    }
  }

  void hash_blocks(ModelSequence& sequence, std::int64_t full) {
    for (; caching_ && sequence.hashed < full; ++sequence.hashed) {
      const int id = sequence.blocks[static_cast<std::size_t>(sequence.hashed)];
      if (mistake_ == Mistake::no_duplicates && cached_.count(hash(sequence, sequence.hashed)) > 0) continue;
      block(id).hashed = true;
      block(id).hash = hash(sequence, sequence.hashed);
      block(id).index = sequence.hashed;
      block(id).label = label(sequence, sequence.hashed);
      cached_[block(id).hash].push_back(id);
    }
  }

  void free(ModelSequence& sequence) {
    std::vector<int> order = sequence.blocks;
    if (mistake_ != Mistake::free_head_first) std::reverse(order.begin(), order.end());
    std::vector<int> unhashed;
    for (const int id : order) {
      if (--block(id).references > 0) continue;
      if (block(id).hashed || mistake_ == Mistake::append_unhashed) {
        block(id).place = free_.insert(free_.end(), id);
      } else {
        unhashed.push_back(id);
      }
    }
    auto head = free_.begin();
    for (const int id : unhashed) block(id).place = free_.insert(head, id);
    sequence.blocks.clear();
    sequence.hashed = 0;
  }

  void reset() {
    for (const int id : free_) {
      if (block(id).hashed) forget(id);
    }
  }

  // What KvBlockManager::state_digest() is said to be a digest of. False when a blank block stands behind a
  // cached one, which vLLM's rules should make impossible.
  bool digest(std::uint64_t& value) const {
    Digest d;
    std::int64_t blank = 0;
    while (blank < free_blocks() && !blocks_[free_at(blank)].hashed) ++blank;
    d.add(blank);
    d.add(allocated_);
    d.add(evicted_);
    std::int64_t at = 0;
    for (const int id : free_) {
      if (at++ < blank) continue;
      const Block& b = blocks_[static_cast<std::size_t>(id)];
      if (!b.hashed) return false;
      d.add(b.label);
      d.add(b.index);
    }
    value = d.value();
    return true;
  }

 private:
  Block& block(int id) { return blocks_[static_cast<std::size_t>(id)]; }
  std::size_t free_at(std::int64_t n) const { return static_cast<std::size_t>(*std::next(free_.begin(), n)); }
  int pick(const std::vector<int>& copies) const {
    return mistake_ == Mistake::newest_copy_first ? copies.back() : copies.front();
  }
  void forget(int id) {
    std::vector<int>& copies = cached_.at(block(id).hash);
    copies.erase(std::find(copies.begin(), copies.end(), id));
    if (copies.empty()) cached_.erase(block(id).hash);
    block(id).hashed = false;
  }

  // hash(parent, tokens of the block)
  std::uint64_t hash(ModelSequence& sequence, std::int64_t index) {
    for (auto i = static_cast<std::int64_t>(sequence.hashes.size()); i <= index; ++i) {
      Digest digest;
      digest.add(i == 0 ? 0 : sequence.hashes.back());
      for (std::int64_t t = i * size_; t < (i + 1) * size_; ++t) digest.add(sequence.token(t));
      sequence.hashes.push_back(digest.value());
    }
    return sequence.hashes[static_cast<std::size_t>(index)];
  }

  // Hash ids from that of the block's last token down to the first, then the kind of name.
  std::uint64_t label(const ModelSequence& sequence, std::int64_t index) const {
    Digest digest;
    const bool named = !sequence.hash_ids.empty() && (index + 1) * size_ <= sequence.named_tokens;
    if (named) {
      for (std::int64_t i = ((index + 1) * size_ - 1) / sequence.hash_block_size; i >= 0; --i) {
        digest.add(sequence.hash_ids[static_cast<std::size_t>(i)]);
      }
      digest.add(std::uint64_t{0x80000000u} | static_cast<std::uint64_t>(sequence.hash_block_size));
    } else if (sequence.hash_ids.empty() && sequence.stream != 0) {
      digest.add(sequence.stream);
      digest.add(std::uint64_t{0xFFFFFFFEu});
    } else {
      digest.add(sequence.serial);
      digest.add(std::uint64_t{0xFFFFFFFFu});
    }
    return digest.value();
  }

  std::int64_t size_;
  bool caching_;
  Mistake mistake_;
  std::int64_t evicted_ = 0;
  std::int64_t allocated_ = 0;
  std::vector<Block> blocks_;
  std::list<int> free_;
  std::map<std::uint64_t, std::vector<int>> cached_;
};

}  // namespace orrery::kv_test
