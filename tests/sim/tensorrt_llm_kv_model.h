// TensorRT-LLM's KV pool written down plainly (§4 of ../shared/reference/tensorrt_llm_1_2.md): every block,
// every token, one free list, one tree; nothing counted together. What the pool of the simulator must agree
// with.
#pragma once

#include <algorithm>
#include <deque>
#include <optional>
#include <vector>

#include "base/check.h"
#include "base/digest.h"

namespace orrery::plain {

using Tokens = std::vector<std::uint64_t>;

struct Block {
  Tokens key;
  int parent = -1;  // −1 = none, 0 = the root
  std::vector<int> children;
  int refs = 0;
  bool in_tree = false;
  bool in_host = false, used = false;
  int given = 0;  // how often it was given to somebody to write
};

class Pool {
 public:
  Pool(int blocks, int size, bool partial, bool copies, int host = 0)
      : size_(size), partial_(partial), copies_(copies) {
    blocks_.resize(static_cast<std::size_t>(blocks + host) + 1);  // 0 is the root
    for (int i = blocks + 1; i <= blocks + host; ++i) {
      at(i).in_host = true;
      host_free_.push_back(i);
    }
    blocks_[0].in_tree = true;
    for (int i = 1; i <= blocks; ++i) free_.push_back(i);
  }

  std::size_t free_blocks() const { return free_.size(); }
  std::int64_t offloaded = 0, onboarded = 0;

  // loadOrAllocateBlocks; `tokens` is the whole prompt.
  std::int64_t add(std::vector<int>& held, const Tokens& tokens) {
    const std::size_t total =
        (tokens.size() + static_cast<std::size_t>(size_) - 1) / static_cast<std::size_t>(size_);
    std::int64_t matched = 0;
    int root = 0;
    for (std::size_t i = 0; i < total; ++i) {
      const Tokens key = slice(tokens, i, tokens.size() - 1);
      int found = -1;
      std::size_t common = 0;
      bool is_partial = false;
      if (root >= 0 && !key.empty()) match(root, key, found, common, is_partial);
      if (found < 0) {
        held.push_back(take());
        root = -1;
        continue;
      }
      matched += static_cast<std::int64_t>(common);
      if (!is_partial) {
        claim(found);
        held.push_back(found);
        root = found;
        continue;
      }
      if (at(found).refs > 0 || !at(found).children.empty()) {
        held.push_back(take());
        if (at(found).in_host && at(found).in_tree) ++onboarded;
      } else {
        detach(found);
        claim(found);
        ++at(found).given;
        held.push_back(found);
      }
      root = -1;
    }
    return matched;
  }

  void grow(std::vector<int>& held) { held.push_back(take()); }

  // storeBlocks of the first `count` tokens; a partial last block only if `partly`.
  void store(const std::vector<int>& held, const Tokens& tokens, std::size_t count, bool partly) {
    int root = 0;
    bool matching = true;
    for (std::size_t i = 0; i * static_cast<std::size_t>(size_) < count; ++i) {
      const Tokens key = slice(tokens, i, count);
      if (static_cast<int>(key.size()) < size_ && !partly) break;
      int next = -1;
      if (matching) {
        for (const int child : at(root).children) {
          if (at(child).key == key) next = child;
        }
      }
      if (next < 0) {
        matching = false;
        next = held[i];
        ORRERY_CHECK(!at(next).in_tree, "model: stored twice");
        at(next).key = key;
        at(next).parent = root;
        at(next).in_tree = true;
        at(root).children.push_back(next);
      }
      root = next;
    }
  }

  // detachFrontBlock; how often each was given out tells at the end whether it still is what it was.
  void detach_front(const std::vector<int>& held, std::vector<int>& gone, std::size_t blocks) {
    while (gone.size() < blocks) {
      const int id = held[gone.size()];
      gone.push_back(at(id).given);
      if (--at(id).refs == 0) free_.push_back(id);
    }
  }
  bool keeps_its_front(const std::vector<int>& held, const std::vector<int>& gone) {
    for (std::size_t i = 0; i < gone.size(); ++i)
      if (at(held[i]).given != gone[i]) return false;
    return true;
  }

  void release(std::vector<int>& held, std::size_t gone = 0) {
    for (std::size_t i = held.size(); i-- > gone;) {
      if (--at(held[i]).refs == 0) free_.push_back(held[i]);
    }
    held.clear();
  }

  // findNewContextBlock
  std::optional<Tokens> first_missing(const Tokens& tokens) const {
    int root = 0;
    Tokens prefix;
    for (std::size_t i = 0; (i + 1) * static_cast<std::size_t>(size_) <= tokens.size(); ++i) {
      const Tokens key = slice(tokens, i, tokens.size());
      prefix.insert(prefix.end(), key.begin(), key.end());
      int next = -1;
      for (const int child : blocks_[static_cast<std::size_t>(root)].children) {
        if (blocks_[static_cast<std::size_t>(child)].key == key) next = child;
      }
      if (next < 0) return prefix;
      root = next;
    }
    return std::nullopt;
  }

 private:
  Block& at(int id) { return blocks_[static_cast<std::size_t>(id)]; }

  Tokens slice(const Tokens& tokens, std::size_t block, std::size_t end) const {
    const std::size_t from = std::min(block * static_cast<std::size_t>(size_), end);
    const std::size_t to = std::min(from + static_cast<std::size_t>(size_), end);
    return Tokens(tokens.begin() + static_cast<std::ptrdiff_t>(from),
                  tokens.begin() + static_cast<std::ptrdiff_t>(to));
  }

  void match(int root, const Tokens& key, int& found, std::size_t& common, bool& is_partial) {
    for (const int child : at(root).children) {
      if (at(child).key != key) continue;
      found = child;
      common = key.size();
      is_partial = static_cast<int>(key.size()) < size_;
      return;
    }
    if (!partial_) return;
    for (const int child : at(root).children) {
      const Block& b = at(child);
      if (!copies_ && (b.refs > 0 || !b.children.empty())) continue;
      std::size_t n = 0;
      while (n < key.size() && n < b.key.size() && key[n] == b.key[n]) ++n;
      if (n <= common) continue;
      common = n;
      found = child;
      is_partial = true;
    }
  }

  // getFreeBlock
  int take() {
    ORRERY_CHECK(!free_.empty(), "model: no free block");
    int id = free_.front();
    if (at(id).used && !host_free_.empty()) {
      const int other = host_free_.front();
      host_free_.pop_front();
      free_.pop_front();
      at(id).in_host = true;
      at(other).in_host = false;
      host_free_.push_back(id);
      free_.push_front(other);
      id = other;
      ++offloaded;
    }
    detach(id);
    claim(id);
    at(id).used = true;
    ++at(id).given;
    return id;
  }
  // claimBlock, and onboardBlock
  void claim(int id) {
    if (at(id).refs++ > 0) return;
    if (!at(id).in_host) {
      free_.erase(std::find(free_.begin(), free_.end(), id));
      return;
    }
    host_free_.erase(std::find(host_free_.begin(), host_free_.end(), id));
    const int other = take();
    at(id).in_host = false;
    at(other).in_host = true;
    at(other).refs = 0;
    host_free_.push_back(other);
    ++onboarded;
  }
  void detach(int id) {
    const std::vector<int> children = at(id).children;
    for (const int child : children) detach(child);
    if (!at(id).in_tree) return;
    auto& siblings = at(at(id).parent).children;
    siblings.erase(std::find(siblings.begin(), siblings.end(), id));
    at(id).in_tree = false;
    at(id).parent = -1;
  }

  int size_;
  bool partial_, copies_;
  std::vector<Block> blocks_;
  std::deque<int> free_, host_free_;
};

}  // namespace orrery::plain
