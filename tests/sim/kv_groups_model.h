// vLLM's KV pool under its hybrid coordinator, block by block and group by group, as block_pool.py,
// single_type_kv_cache_manager.py and kv_cache_coordinator.py of 0.24.0 have it. Slow and plain on purpose.
#pragma once

#include <algorithm>
#include <cstdint>
#include <list>
#include <map>
#include <utility>
#include <vector>

#include "kv_block_model.h"

namespace orrery::kv_test {

class GroupsModel {
 public:
  struct Shape {
    std::int64_t num_blocks, block_size;
    int full, windowed;
    std::int64_t window;
    bool chunk_ends = false;  // the windowed ones are MambaManagers in mode `align`; window is 2
    bool drops = false;       // a drafter: `drop_eagle_block` of every group
  };
  struct Holding {
    std::vector<std::vector<int>> tables;  // by group; 0 is the null block
    std::int64_t cached = 0;
    std::vector<std::uint64_t> hashes;
    std::int64_t last_state = -1;  // `last_state_block_idx`
  };

  explicit GroupsModel(const Shape& shape) : s_(shape), blocks_(static_cast<std::size_t>(shape.num_blocks)) {
    for (int i = 1; i < static_cast<int>(shape.num_blocks); ++i) free_.push_back(i);
  }
  std::int64_t free_blocks() const { return static_cast<std::int64_t>(free_.size()); }
  std::int64_t evicted = 0;

  // find_longest_cache_hit: blocks, and those of them that would leave the free list.
  std::pair<std::int64_t, std::int64_t> lookup(Holding& h, const ModelSequence& q, std::int64_t tokens) {
    std::int64_t length = (tokens - 1) / s_.block_size;
    if (s_.full > 0) {
      std::int64_t i = 0;
      while (i < length && everywhere(0, s_.full, hash(h, q, i))) ++i;
      // The last match is dropped, and the next group looks one block further.
      length = s_.drops ? std::min(length, std::max<std::int64_t>(0, i - 1) + 1) : i;
    }
    const std::int64_t need = (s_.window - 1 + s_.block_size - 1) / s_.block_size + (s_.drops ? 1 : 0);
    std::int64_t contiguous = 0, found = -1;
    for (std::int64_t i = length - 1; i >= 0; --i) {
      contiguous = everywhere(s_.full, groups(), hash(h, q, i)) ? contiguous + 1 : 0;
      if (contiguous >= need) {
        found = i + contiguous;
        break;
      }
    }
    length = found >= 0 ? found : contiguous;
    if (s_.drops && length > 0) --length;
    std::int64_t idle = 0;
    for (int g = 0; g < groups(); ++g) {
      for (std::int64_t i = first_held(g, length); i < length; ++i)
        idle += blocks_[place(cached_.at({g, hash(h, q, i)}).front())].references == 0;
    }
    return {length, idle};
  }

  void take(Holding& h, const ModelSequence& q, std::int64_t length) {
    h.tables.assign(static_cast<std::size_t>(groups()), {});
    h.cached = length;
    for (int g = 0; g < groups(); ++g) {
      for (std::int64_t i = 0; i < length; ++i) {
        int id = 0;
        if (i >= first_held(g, length)) {
          id = cached_.at({g, hash(h, q, i)}).front();
          if (blocks_[place(id)].references++ == 0) free_.remove(id);
        }
        h.tables[static_cast<std::size_t>(g)].push_back(id);
      }
    }
  }

  // allocate_slots for tokens up to `end` behind `computed` ones; false when they do not fit.
  bool allocate(Holding& h, const ModelSequence& q, std::int64_t computed, std::int64_t end) {
    for (int g = s_.full; g < groups(); ++g) {
      std::vector<int>& table = h.tables[static_cast<std::size_t>(g)];
      std::vector<int> removed;
      for (std::int64_t i = std::min(left_behind(computed), std::ssize(table)) - 1; i >= 0; --i) {
        int& id = table[static_cast<std::size_t>(i)];
        if (id == 0) break;
        removed.push_back(id);
        id = 0;
      }
      free(removed);
      if (s_.chunk_ends && h.last_state >= 0 &&
          h.last_state < (computed + s_.block_size - 1) / s_.block_size - 1) {
        int& id = table[static_cast<std::size_t>(h.last_state)];
        if (id != 0) free({id});
        id = 0;
      }
    }
    const std::int64_t blocks = (end + s_.block_size - 1) / s_.block_size;
    if (needed(blocks - std::ssize(h.tables[0])) > free_blocks()) return false;
    if (blocks > std::ssize(h.tables[0])) h.last_state = std::ssize(h.tables[0]) - 1;
    for (auto& table : h.tables) {
      // null blocks up to the one that the state at the chunk's end is in
      if (s_.chunk_ends && &table - h.tables.data() >= s_.full && blocks > std::ssize(table))
        table.resize(static_cast<std::size_t>(blocks) - 1, 0);
      while (std::ssize(table) < blocks) {
        const int id = free_.front();
        free_.pop_front();
        if (blocks_[place(id)].hashed) {
          forget(id);
          ++evicted;
        }
        blocks_[place(id)].references = 1;
        table.push_back(id);
      }
    }
    for (; h.cached < end / s_.block_size; ++h.cached) {
      for (int g = 0; g < groups(); ++g) {
        const int id = h.tables[static_cast<std::size_t>(g)][static_cast<std::size_t>(h.cached)];
        if (id == 0) continue;
        blocks_[place(id)].hashed = true;
        blocks_[place(id)].key = {g, hash(h, q, h.cached)};
        cached_[blocks_[place(id)].key].push_back(id);
      }
    }
    return true;
  }

  void release(Holding& h) {
    for (int g = groups() - 1; g >= 0; --g) {
      std::vector<int> order(h.tables[static_cast<std::size_t>(g)].rbegin(),
                             h.tables[static_cast<std::size_t>(g)].rend());
      std::erase(order, 0);
      free(order);
    }
    h.tables.clear();
    h.cached = 0;
    h.last_state = -1;
  }

  // Of the pool, for so many blocks more in groups that keep every token.
  std::int64_t needed(std::int64_t blocks) const {
    return s_.full * blocks + s_.windowed * (s_.chunk_ends ? std::min<std::int64_t>(blocks, 1) : blocks);
  }
  std::int64_t left_behind(std::int64_t computed) const {
    return std::max<std::int64_t>(0, computed - s_.window + 1) / s_.block_size;
  }

 private:
  using Key = std::pair<int, std::uint64_t>;
  struct One {
    int references = 0;
    bool hashed = false;
    Key key;
  };

  int groups() const { return s_.full + s_.windowed; }
  static std::size_t place(int id) { return static_cast<std::size_t>(id); }
  std::int64_t first_held(int group, std::int64_t length) const {
    return group < s_.full ? 0 : left_behind(length * s_.block_size);
  }
  bool everywhere(int first, int end, std::uint64_t hash) const {
    for (int g = first; g < end; ++g) {
      if (cached_.count({g, hash}) == 0) return false;
    }
    return true;
  }
  void free(const std::vector<int>& order) {
    std::vector<int> unhashed;
    for (const int id : order) {
      if (--blocks_[place(id)].references > 0) continue;
      if (blocks_[place(id)].hashed) {
        free_.push_back(id);
      } else {
        unhashed.push_back(id);
      }
    }
    free_.insert(free_.begin(), unhashed.begin(), unhashed.end());
  }
  void forget(int id) {
    std::vector<int>& copies = cached_.at(blocks_[place(id)].key);
    copies.erase(std::find(copies.begin(), copies.end(), id));
    if (copies.empty()) cached_.erase(blocks_[place(id)].key);
    blocks_[place(id)].hashed = false;
  }
  std::uint64_t hash(Holding& h, const ModelSequence& q, std::int64_t index) {
    for (auto i = std::ssize(h.hashes); i <= index; ++i) {
      Digest digest;
      digest.add(i == 0 ? 0 : h.hashes.back());
      for (std::int64_t t = i * s_.block_size; t < (i + 1) * s_.block_size; ++t) digest.add(q.token(t));
      h.hashes.push_back(digest.value());
    }
    return h.hashes[static_cast<std::size_t>(index)];
  }

  Shape s_;
  std::vector<One> blocks_;
  std::list<int> free_;
  std::map<Key, std::vector<int>> cached_;
};

}  // namespace orrery::kv_test
