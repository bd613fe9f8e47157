// Stored blocks of a TensorRT-LLM pool and the free queue (§4.2 to §4.4 of
// ../shared/reference/tensorrt_llm_1_2.md). What sequences hold is tensorrt_llm_kv.cpp's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "base/check.h"
#include "base/digest.h"
#include "sim/kv_slab.h"

namespace orrery::trtllm {

using kv::Id;
using kv::kNone;

// Parents of first blocks: contents of different roots never agree.
inline constexpr Id kFirstRoot = 0x80000000u;
inline constexpr Id kHashRoot = 0x80000000u;     // | hash_block_size
inline constexpr Id kStreamRoot = 0xFFFFFFFDu;   // a session's stream
inline constexpr Id kPrivateRoot = 0xFFFFFFFEu;  // content without a name

// What a block's tokens are, up to `end` tokens from the block's start: a hash id, a stream, or a sequence's
// own tokens.
struct Piece {
  std::uint64_t id = 0;
  std::int32_t end = 0;
  bool own = false;
  bool same_content(const Piece& other) const { return id == other.id && own == other.own; }
};

struct BlockKey {
  std::vector<Piece> pieces;  // at least one unless empty
  std::int32_t tokens = 0;
};

// Tokens at the start on which two keys agree.
inline std::int32_t common_tokens(const BlockKey& a, const BlockKey& b) {
  std::int32_t common = 0;
  std::size_t i = 0, j = 0;
  while (i < a.pieces.size() && j < b.pieces.size()) {
    const Piece &x = a.pieces[i], &y = b.pieces[j];
    if (!x.same_content(y)) break;
    common = std::min(x.end, y.end);
    i += x.end == common ? 1 : 0;
    j += y.end == common ? 1 : 0;
  }
  return common;
}

struct Links {
  Id prev = kNone, next = kNone;
};

struct Block {
  Id parent = kNone;
  bool in_tree = false;
  std::int32_t refs = 0;  // 0: in the free queue
  BlockKey key;
  std::uint64_t serial = 0;  // of its entry into the tree
  Id first_child = kNone;
  std::int32_t hidden_children = 0;  // runs below it
  Links siblings;                    // children of one parent
  Links alike;                       // of those, the ones that begin with the same content
  Links queue;
  // A run: so many free blocks that nobody can find. It hangs below a stored block while `below` lives.
  std::int64_t run = 0;
  Id below = kNone;
  std::uint64_t below_serial = 0;
  std::uint64_t simulation = 0;  // which one `simulated_refs` belongs to
  std::int32_t simulated_refs = 0;
};

class BlockTree {
 public:
  struct Match {
    Id block = kNone;
    std::int32_t tokens = 0;
    bool partial = false;
  };

  // §4.2: the child with exactly this key.
  Id find_exact(Id parent, const BlockKey& key) const {
    for (Id id = first_alike(parent, key); id != kNone; id = blocks[id].alike.next) {
      const Block& b = blocks[id];
      if (b.key.tokens == key.tokens && common_tokens(b.key, key) == key.tokens) return id;
    }
    return kNone;
  }

  // §4.2: else the child that agrees on the most tokens; of equals the one stored first (the engine: by the
  // order of its hash map, which no rule names).
  Match find(Id parent, const BlockKey& key, std::int32_t block_size, bool partial, bool copies) const {
    if (const Id exact = find_exact(parent, key); exact != kNone) {
      return {.block = exact, .tokens = key.tokens, .partial = key.tokens < block_size};
    }
    Match best;
    if (!partial) return best;
    for (Id id = first_alike(parent, key); id != kNone; id = blocks[id].alike.next) {
      if (!copies && !is_idle_leaf(id)) continue;
      const std::int32_t common = common_tokens(blocks[id].key, key);
      if (common > best.tokens) best = {.block = id, .tokens = common, .partial = true};
    }
    return best;
  }

  bool is_idle_leaf(Id id) const {
    const Block& b = blocks[id];
    return b.refs == 0 && b.first_child == kNone && b.hidden_children == 0;
  }

  void insert(Id id, Id parent, BlockKey key) {
    Block& b = blocks[id];
    ORRERY_CHECK(!b.in_tree, "KV tree: a block is stored twice");
    b.in_tree = true;
    b.parent = parent;
    b.key = std::move(key);
    b.serial = ++serials_;
    b.first_child = kNone;
    b.hidden_children = 0;
    if (parent < kFirstRoot) {
      Id& first = blocks[parent].first_child;
      b.siblings = {kNone, first};
      if (first != kNone) blocks[first].siblings.prev = id;
      first = id;
    }
    Ends& ends = alike_[name_of(parent, b.key)];
    b.alike = {ends.last, kNone};
    (ends.last == kNone ? ends.first : blocks[ends.last].alike.next) = id;
    ends.last = id;
    ++version_;
  }

  // Takes a block and all its descendants out of the tree (freeChildren); they stay where they are otherwise.
  void detach(Id top) {
    if (!blocks[top].in_tree) return;
    stack_.assign(1, top);
    while (!stack_.empty()) {
      const Id id = stack_.back();
      if (blocks[id].first_child != kNone) {
        stack_.push_back(blocks[id].first_child);
        continue;
      }
      stack_.pop_back();
      unlink(id);
    }
    ++version_;
  }

  std::uint64_t version() const { return version_; }

  // ------------------------------------------------------------------------------------------- free queue

  std::int64_t blank = 0;  // never used: at the head
  std::int64_t idle = 0;   // in the queue
  Id head = kNone, tail = kNone;
  kv::Slab<Block> blocks;

  void append(Id id) {
    Block& b = blocks[id];
    b.queue = {tail, kNone};
    (tail == kNone ? head : blocks[tail].queue.next) = id;
    tail = id;
    idle += b.run > 0 ? b.run : 1;
  }
  void take_out(Id id) {
    const Block& b = blocks[id];
    (b.queue.prev == kNone ? head : blocks[b.queue.prev].queue.next) = b.queue.next;
    (b.queue.next == kNone ? tail : blocks[b.queue.next].queue.prev) = b.queue.prev;
    idle -= b.run > 0 ? b.run : 1;
  }

  // `count` blocks that nobody can find; `below`: the stored block that they hang under, if any.
  void append_run(std::int64_t count, Id below) {
    if (count == 0) return;
    const bool hangs = below < kFirstRoot;
    if (!hangs && tail != kNone && blocks[tail].run > 0 && blocks[tail].below == kNone) {
      blocks[tail].run += count;
      idle += count;
      return;
    }
    Block b;
    b.run = count;
    if (hangs) {
      b.below = below;
      b.below_serial = blocks[below].serial;
      ++blocks[below].hidden_children;
    }
    append(blocks.make(b));
  }

  // §4.4: from the head of the queue, whatever stands there.
  void allocate(std::int64_t count) {
    ORRERY_CHECK(count <= blank + idle, "KV pool: can't allocate new blocks, no free blocks left");
    const std::int64_t fresh = std::min(count, blank);
    blank -= fresh;
    count -= fresh;
    while (count > 0) {
      const Id id = head;
      if (blocks[id].run > count) {
        blocks[id].run -= count;
        idle -= count;
        return;
      }
      count -= blocks[id].run > 0 ? blocks[id].run : 1;
      if (blocks[id].run > 0) leave_parent(id);
      detach(id);
      take_out(id);
      blocks.drop(id);
    }
  }

  void digest(Digest& out) const {
    out.add(blank);
    for (Id id = head; id != kNone; id = blocks[id].queue.next) {
      const Block& b = blocks[id];
      out.add(b.run);
      out.add(static_cast<std::uint64_t>(b.in_tree));
      out.add(static_cast<std::int64_t>(b.key.tokens));
      for (const Piece& piece : b.key.pieces) {
        out.add(piece.id);
        out.add(static_cast<std::int64_t>(piece.end));
      }
    }
  }

 private:
  struct Name {
    Id parent;
    std::uint64_t id;
    bool own;
    bool operator==(const Name&) const = default;
  };
  struct NameHash {
    std::size_t operator()(const Name& n) const {
      Digest d;
      d.add((static_cast<std::uint64_t>(n.parent) << 1) | (n.own ? 1u : 0u));
      d.add(n.id);
      return static_cast<std::size_t>(d.value());
    }
  };
  struct Ends {
    Id first = kNone, last = kNone;
  };

  static Name name_of(Id parent, const BlockKey& key) {
    return {parent, key.pieces.front().id, key.pieces.front().own};
  }
  Id first_alike(Id parent, const BlockKey& key) const {
    if (key.tokens == 0) return kNone;
    const auto it = alike_.find(name_of(parent, key));
    return it == alike_.end() ? kNone : it->second.first;
  }

  void unlink(Id id) {
    Block& b = blocks[id];
    if (b.parent < kFirstRoot) {
      Id& first = blocks[b.parent].first_child;
      (b.siblings.prev == kNone ? first : blocks[b.siblings.prev].siblings.next) = b.siblings.next;
      if (b.siblings.next != kNone) blocks[b.siblings.next].siblings.prev = b.siblings.prev;
    }
    const auto it = alike_.find(name_of(b.parent, b.key));
    Ends& ends = it->second;
    (b.alike.prev == kNone ? ends.first : blocks[b.alike.prev].alike.next) = b.alike.next;
    (b.alike.next == kNone ? ends.last : blocks[b.alike.next].alike.prev) = b.alike.prev;
    if (ends.first == kNone) alike_.erase(it);
    b.in_tree = false;
    b.parent = kNone;
    b.serial = 0;  // runs below it hang under nothing now
    b.hidden_children = 0;
    b.siblings = b.alike = {};
  }

  void leave_parent(Id run) {
    const Block& b = blocks[run];
    if (b.below != kNone && blocks[b.below].serial == b.below_serial) --blocks[b.below].hidden_children;
  }

  std::unordered_map<Name, Ends, NameHash> alike_;  // never iterated
  std::vector<Id> stack_;
  std::uint64_t serials_ = 0, version_ = 0;
};

}  // namespace orrery::trtllm
