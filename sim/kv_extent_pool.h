// Every cached extent of a pool, the free list, and who counts as whose copy: what the rules of vLLM's block
// pool become when the unit is an extent. Which sequence holds what is kv_block_manager.cpp's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "base/check.h"
#include "sim/kv_content_tree.h"
#include "sim/kv_extent.h"
#include "sim/kv_slab.h"

namespace orrery::kv {

struct ExtentPool;

// Told when the resident blocks of a node may have changed.
class NodeListener {
 public:
  virtual ~NodeListener() = default;
  virtual void changed(const ExtentPool& pool, Id node) = 0;
};

struct ExtentPool {
  std::int64_t blank = 0;    // free, without content; at the head of the free list
  std::int64_t idle = 0;     // free, with content: the sum over `queue`
  std::int64_t evicted = 0;  // cached blocks dropped so far
  FreeQueue queue;
  Slab<Extent> extents;
  ContentTree tree;
  Id nameless = kNone;  // node of cached blocks that nobody will ask for; made when first needed
  NodeListener* listener = nullptr;

  void note_change(Id node) const {
    if (listener != nullptr) listener->changed(*this, node);
  }

  // Takes blocks from the head of the free list. Blank ones stand there; then the head extent gives up its
  // end.
  void allocate(std::int64_t blocks) {
    ORRERY_CHECK(blocks >= 0 && blocks <= blank + idle, "KV pool: more blocks asked for than are free");
    const std::int64_t from_blank = std::min(blocks, blank);
    blank -= from_blank;
    if (blocks > from_blank) evict(blocks - from_blank);
  }

  // A new extent as the newest copy of a node's content, to the right of `left` in what one sequence
  // allocated.
  Id add(Id node, std::int32_t begin, std::int32_t end, std::int32_t holders, Id left) {
    const Id id = extents.make(Extent{begin, end, holders, node, {}, Links{left, kNone}, {}});
    if (left != kNone) extents[left].run.next = id;
    tree[node].copies.push_back(extents, id);
    note_change(node);
    return id;
  }

  // [begin, end) of the extent gets one holder more; returns the extent that now is just that.
  Id hold(Id id, std::int32_t begin, std::int32_t end) {
    if (extents[id].begin < begin) split(id, begin);
    if (end < extents[id].end) {
      split(id, end);
      id = extents[id].run.prev;
    }
    if (extents[id].holders++ == 0) {
      queue.remove(extents, id);
      idle -= extents[id].size();
    }
    return id;
  }

  // One holder less for the extents from `last` back to the one that starts at `begin`: tail first.
  void let_go(Id last, std::int32_t begin) {
    for (Id id = last;;) {
      Extent& extent = extents[id];
      const Id left = extent.run.prev;
      const bool done = extent.begin == begin;
      if (--extent.holders == 0) make_idle(id);
      if (done) return;
      id = left;
    }
  }

  // Appends to the free queue. What was freed just before may be the continuation of this extent; then one
  // extent says the same as two, provided that no other copy was registered between them.
  void make_idle(Id id) {
    Extent& extent = extents[id];
    idle += extent.size();
    if (queue.last != kNone && extent.run.next == queue.last && extent.copies.next == queue.last) {
      Extent& right = extents[queue.last];
      if (extent.end == right.begin) {
        right.begin = extent.begin;
        right.run.prev = extent.run.prev;
        if (right.run.prev != kNone) extents[right.run.prev].run.next = queue.last;
        tree[extent.node].copies.remove(extents, id);
        extents.drop(id);
        return;
      }
    }
    queue.push_back(extents, id);
  }

  // The part of an extent before block `place` as an extent of its own; the id given stays with the rest. The
  // extent itself when all of it lies before.
  Id part_before(Id id, std::int32_t place) {
    if (extents[id].end <= place) return id;
    split(id, place);
    return extents[id].run.prev;
  }

  // Appends cached blocks to the free queue whose content nobody will ask for again.
  void add_nameless(std::int64_t blocks) {
    if (blocks == 0) return;
    if (nameless == kNone) {
      nameless = tree.make_private(0);
      tree[nameless].users = 1;
    }
    idle += blocks;
    if (queue.last != kNone && extents[queue.last].node == nameless) {
      extents[queue.last].end += static_cast<std::int32_t>(blocks);
      return;
    }
    queue.push_back(extents, add(nameless, 0, static_cast<std::int32_t>(blocks), 0, kNone));
  }

  // Forgets all content; everything is idle. At the head or not: without content all places in the list are
  // equal.
  void make_all_blank() {
    while (!queue.empty()) remove(queue.first);
    blank += idle;
    idle = 0;
  }

  // Visits the resident blocks of one node from `begin` on as (extent, from, to), each in the copy registered
  // first; returns the first block that is missing, or `end`. `visit` may hold what it is given.
  //
  // One pass finds the first copy of every block: whoever holds a block holds the then first copies of all
  // blocks before it, and gives them back after it. So while a block is resident, copies registered before it
  // of all earlier blocks are, and no copy in the list starts beyond what the copies before it cover.
  template <class Visit>
  std::int32_t walk(Id node, std::int32_t begin, std::int32_t end, Visit&& visit) const {
    std::int32_t at = begin;
    for (Id id = tree[node].copies.first; at < end && id != kNone; id = extents[id].copies.next) {
      ORRERY_CHECK(extents[id].begin <= at, "KV pool: a block outlived the blocks before it");
      if (extents[id].end <= at) continue;
      const std::int32_t to = std::min(extents[id].end, end);
      visit(id, at, to);
      at = to;
    }
    return at;
  }

  // For tests. `holders`: how often each extent is held, as counted from the sequences; `nodes`: those in use
  // by them.
  void check(const std::vector<std::int32_t>& holders, std::vector<Id> nodes) const;

 private:
  void evict(std::int64_t blocks) {
    idle -= blocks;
    evicted += blocks;
    while (blocks > 0) {
      Extent& head = extents[queue.first];
      if (head.size() > blocks) {
        head.end -= static_cast<std::int32_t>(blocks);
        return note_change(head.node);
      }
      blocks -= head.size();
      remove(queue.first);
    }
  }

  void remove(Id id) {
    const Extent& extent = extents[id];
    queue.remove(extents, id);
    if (extent.run.prev != kNone) extents[extent.run.prev].run.next = extent.run.next;
    if (extent.run.next != kNone) extents[extent.run.next].run.prev = extent.run.prev;
    tree[extent.node].copies.remove(extents, id);
    note_change(extent.node);
    tree.drop_if_unneeded(extent.node);
    extents.drop(id);
  }

  // [begin, place) becomes an extent of its own in front of [place, end), which keeps the id.
  void split(Id id, std::int32_t place) {
    const Id lower = extents.make(extents[id]);
    Extent& upper = extents[id];
    extents[lower].end = place;
    extents[lower].run.next = id;
    upper.begin = place;
    upper.run.prev = lower;
    if (extents[lower].run.prev != kNone) extents[extents[lower].run.prev].run.next = lower;
    tree[upper.node].copies.insert_before(extents, lower, id);
    if (upper.holders == 0) queue.insert_after(extents, lower, id);
  }
};

// The free queue and its count; every extent is in it or held, and hangs in the lists as its fields say.
inline void ExtentPool::check(const std::vector<std::int32_t>& holders, std::vector<Id> nodes) const {
  std::int64_t idle_blocks = 0;
  std::vector<char> queued(extents.slots(), 0);
  for (Id id = queue.first, before = kNone; id != kNone; before = id, id = extents[id].queue.next) {
    ORRERY_CHECK(extents[id].queue.prev == before, "KV pool: free queue");
    queued[id] = 1;
    idle_blocks += extents[id].size();
  }
  ORRERY_CHECK(blank >= 0 && idle_blocks == idle, "KV pool: free count");
  std::size_t live = 0;
  for (Id id = 0; id < extents.slots(); ++id) {
    if (queued[id] == 0 && holders[id] == 0) continue;
    ++live;
    const Extent& extent = extents[id];
    ORRERY_CHECK(extent.holders == holders[id], "KV pool: holders");
    ORRERY_CHECK((extent.holders == 0) == (queued[id] != 0), "KV pool: held and free at once, or neither");
    ORRERY_CHECK(extent.begin >= 0 && extent.begin < extent.end, "KV pool: empty extent");
    const Id right = extent.run.next;
    ORRERY_CHECK(right == kNone || (extents[right].run.prev == id && extents[right].begin >= extent.end),
                 "KV pool: neighbours");
    const CopyList& copies = tree[extent.node].copies;
    const Id next = extent.copies.next;
    const Id prev = extent.copies.prev;
    ORRERY_CHECK(next == kNone ? copies.last == id : extents[next].copies.prev == id, "KV pool: copies");
    ORRERY_CHECK(prev == kNone ? copies.first == id : extents[prev].copies.next == id, "KV pool: copies");
    nodes.push_back(extent.node);
  }
  ORRERY_CHECK(live == extents.live(), "KV pool: an extent is lost");
  ORRERY_CHECK(tree.holds_exactly(nodes), "KV pool: content tree");
}

}  // namespace orrery::kv
