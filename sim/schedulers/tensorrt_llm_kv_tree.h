// Stored blocks of a TensorRT-LLM pool and its free queues, one on the device and one in host memory (§4.2 to
// §4.5 of ../shared/reference/tensorrt_llm_1_2.md). What sequences hold is tensorrt_llm_kv.cpp's.
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
  bool in_host = false;   // then nobody holds it
  std::int32_t refs = 0;  // 0: in the free queue
  BlockKey key;
  std::uint64_t serial = 0;  // of its entry into the tree
  std::uint64_t birth = 0;   // when a sequence got it to write; 0 = it is nobody's any more
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

  struct Queue {
    std::int64_t blank = 0;  // never used: at the head
    std::int64_t idle = 0;   // in the queue
    Id head = kNone, tail = kNone;
    std::int64_t free() const { return blank + idle; }
  };
  Queue device, host;
  std::int64_t offloaded = 0, dropped = 0;  // blocks copied to host memory; forgotten there
  kv::Slab<Block> blocks;

  void append(Id id) {
    Block& b = blocks[id];
    Queue& q = queue_of(b);
    b.queue = {q.tail, kNone};
    (q.tail == kNone ? q.head : blocks[q.tail].queue.next) = id;
    q.tail = id;
    q.idle += size_of(b);
  }
  void take_out(Id id) {
    const Block& b = blocks[id];
    Queue& q = queue_of(b);
    (b.queue.prev == kNone ? q.head : blocks[b.queue.prev].queue.next) = b.queue.next;
    (b.queue.next == kNone ? q.tail : blocks[b.queue.next].queue.prev) = b.queue.prev;
    q.idle -= size_of(b);
  }

  // `count` blocks that nobody can find; `below`: the stored block that they hang under, if any.
  void append_run(std::int64_t count, Id below, bool in_host = false) {
    if (count == 0) return;
    Queue& q = in_host ? host : device;
    const bool hangs = below < kFirstRoot;
    if (!hangs && q.tail != kNone && blocks[q.tail].run > 0 && blocks[q.tail].below == kNone) {
      blocks[q.tail].run += count;
      q.idle += count;
      return;
    }
    Block b;
    b.run = count;
    b.in_host = in_host;
    if (hangs) {
      b.below = below;
      b.below_serial = blocks[below].serial;
      ++blocks[below].hidden_children;
    }
    append(blocks.make(b));
  }

  // §4.4: from the head of the queue, whatever stands there. §4.5: with room in host memory its content goes
  // there.
  void allocate(std::int64_t count) {
    ORRERY_CHECK(count <= device.free(), "KV pool: can't allocate new blocks, no free blocks left");
    const std::int64_t fresh = std::min(count, device.blank);
    device.blank -= fresh;
    count -= fresh;
    while (count > 0) {
      std::int64_t some = std::min(count, size_of(blocks[device.head]));
      if (host.free() > 0) {
        some = std::min(some, host.free());
        offload_head(some);
      } else {
        forget_head(device, some);
      }
      count -= some;
    }
  }

  void digest(Digest& out) const {
    digest(device, out);
    if (host.free() > 0) digest(host, out);
  }

 private:
  static std::int64_t size_of(const Block& b) { return b.run > 0 ? b.run : 1; }
  Queue& queue_of(const Block& b) { return b.in_host ? host : device; }

  // The first `count` blocks of a queue, of one record.
  void forget_head(Queue& q, std::int64_t count) {
    const Id id = q.head;
    if (blocks[id].run > count) {
      blocks[id].run -= count;
      q.idle -= count;
      return;
    }
    if (blocks[id].run > 0) leave_parent(id);
    detach(id);
    take_out(id);
    blocks[id].birth = 0;
    blocks.drop(id);
  }

  // They take the places of the first ones there, which are forgotten with all that hangs below them, and go
  // to the end of that queue; what they are in the tree they stay.
  void offload_head(std::int64_t count) {
    offloaded += count;
    const std::int64_t fresh = std::min(count, host.blank);
    host.blank -= fresh;
    for (std::int64_t rest = count - fresh; rest > 0;) {
      const std::int64_t some = std::min(rest, size_of(blocks[host.head]));
      forget_head(host, some);
      dropped += some;
      rest -= some;
    }
    const Id id = device.head;
    if (blocks[id].run > count || (blocks[id].run > 0 && blocks[id].below == kNone)) {
      const bool hangs =
          blocks[id].below != kNone && blocks[blocks[id].below].serial == blocks[id].below_serial;
      const Id below = hangs ? blocks[id].below : kNone;
      forget_head(device, count);
      append_run(count, below, true);
      return;
    }
    take_out(id);
    blocks[id].in_host = true;
    append(id);
  }

  void digest(const Queue& q, Digest& out) const {
    out.add(q.blank);
    for (Id id = q.head; id != kNone; id = blocks[id].queue.next) {
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
