// Names of content: a tree in which the path to a node is the list of hash ids that a prefix has.
//
// A node covers hash_block_size tokens. An engine block belongs to the node that contains its *last* token:
// all ids up to that one must be equal for the block to be equal, and no later one matters; so the two block
// sizes need not divide one another. A session's stream is one node without end; what nobody else can name
// (outputs of a sequence) is a node that is not in the table.
#pragma once

#include <cstdint>
#include <vector>

#include "base/check.h"
#include "base/digest.h"
#include "sim/kv_extent.h"

namespace orrery::kv {

// In the place of a parent: what kind of root a node hangs on. Node ids stay below.
inline constexpr Id kHashRoot = 0x80000000u;  // | hash_block_size: ids of other sizes are other names
inline constexpr Id kStreamRoot = 0xFFFFFFFEu;
inline constexpr Id kPrivateRoot = 0xFFFFFFFFu;

// Groups of layers have blocks of their own for the same tokens, so each has roots of its own.
inline Id hash_root(std::int32_t hash_block_size, std::int32_t group) {
  ORRERY_CHECK(group == 0 || hash_block_size < (1 << 24), "KV content: hash_block_size outside [1, 2^24)");
  return kHashRoot | static_cast<Id>(group) << 24 | static_cast<Id>(hash_block_size);
}
inline Id stream_root_of_group(std::int32_t group) {
  return kHashRoot | 0x40000000u | static_cast<Id>(group);
}

struct ContentNode {
  std::uint64_t name = 0;  // hash id, stream, or the number of the sequence's open()
  Id parent = kPrivateRoot;
  std::uint32_t children = 0;
  std::uint32_t users = 0;  // open sequences whose content ends here
  CopyList copies;          // resident blocks, in order of registration
};

class ContentTree {
 public:
  ContentTree() : slots_(1024) {}

  ContentNode& operator[](Id id) { return nodes_[id]; }
  const ContentNode& operator[](Id id) const { return nodes_[id]; }

  // The node stays while it has copies, children or users.
  Id find_or_make(Id parent, std::uint64_t name) {
    const std::uint32_t tag = tag_of(parent, name);
    std::uint32_t at = tag & mask();
    for (; slots_[at].node != kNone; at = (at + 1) & mask()) {
      if (slots_[at].tag != tag) continue;
      const ContentNode& node = nodes_[slots_[at].node];
      if (node.name == name && node.parent == parent) return slots_[at].node;
    }
    const Id id = nodes_.make(ContentNode{name, parent, 0, 0, {}});
    ORRERY_CHECK(id < kHashRoot, "KV content tree: more than 2^31 nodes");
    if (parent < kHashRoot) ++nodes_[parent].children;
    slots_[at] = Slot{tag, id};
    if (2 * ++used_ > slots_.size()) enlarge();
    return id;
  }
  Id make_private(std::uint64_t name) { return nodes_.make(ContentNode{name, kPrivateRoot, 0, 0, {}}); }

  // Frees the node if nothing needs it any more, then its ancestors likewise.
  void drop_if_unneeded(Id id) {
    while (id < kHashRoot) {
      const ContentNode& node = nodes_[id];
      if (!node.copies.empty() || node.children != 0 || node.users != 0) return;
      const Id parent = node.parent;
      if (parent != kPrivateRoot) remove_from_table(id);
      if (parent < kHashRoot) --nodes_[parent].children;
      nodes_.drop(id);
      id = parent;
    }
  }

  // The same for equal content, whatever the node's id: names from the node up to its root, then the root.
  std::uint64_t label(Id id) const {
    Digest digest;
    for (; id < kHashRoot; id = nodes_[id].parent) {
      digest.add(nodes_[id].name);
      if (nodes_[id].parent >= kHashRoot) digest.add(static_cast<std::uint64_t>(nodes_[id].parent));
    }
    return digest.value();
  }

  // Whether these nodes and their ancestors are all there is, counted and in the table as they should be. For
  // tests.
  bool holds_exactly(const std::vector<Id>& needed) const {
    std::vector<char> seen(nodes_.slots(), 0);
    std::vector<std::uint32_t> children(nodes_.slots(), 0);
    std::size_t found = 0;
    std::size_t named = 0;
    for (Id id : needed) {
      for (; id < kHashRoot && seen[id] == 0; id = nodes_[id].parent) {
        seen[id] = 1;
        ++found;
        const ContentNode& node = nodes_[id];
        if (node.parent == kPrivateRoot) continue;
        ++named;
        if (node.parent < kHashRoot) ++children[node.parent];
        std::uint32_t at = tag_of(node.parent, node.name) & mask();
        while (slots_[at].node != id && slots_[at].node != kNone) at = (at + 1) & mask();
        if (slots_[at].node == kNone) return false;
      }
    }
    for (Id id = 0; id < nodes_.slots(); ++id) {
      if (seen[id] != 0 && nodes_[id].children != children[id]) return false;
    }
    return found == nodes_.live() && named == used_;
  }

 private:
  // Open addressing with linear probing; deletion moves later entries back, so there are no tombstones.
  struct Slot {
    std::uint32_t tag = 0;
    Id node = kNone;
  };

  static std::uint32_t tag_of(Id parent, std::uint64_t name) {
    Digest digest;
    digest.add(static_cast<std::uint64_t>(parent) << 32 | 0x5bd1e995u);
    digest.add(name);
    return static_cast<std::uint32_t>(digest.value() >> 32);
  }
  std::uint32_t mask() const { return static_cast<std::uint32_t>(slots_.size() - 1); }

  void enlarge() {
    std::vector<Slot> old(slots_.size() * 2);
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.node == kNone) continue;
      std::uint32_t at = slot.tag & mask();
      while (slots_[at].node != kNone) at = (at + 1) & mask();
      slots_[at] = slot;
    }
  }

  void remove_from_table(Id id) {
    std::uint32_t hole = tag_of(nodes_[id].parent, nodes_[id].name) & mask();
    while (slots_[hole].node != id) hole = (hole + 1) & mask();
    for (std::uint32_t at = (hole + 1) & mask(); slots_[at].node != kNone; at = (at + 1) & mask()) {
      const std::uint32_t home = slots_[at].tag & mask();
      if (((at - home) & mask()) < ((at - hole) & mask())) continue;  // its home lies behind the hole
      slots_[hole] = slots_[at];
      hole = at;
    }
    slots_[hole] = Slot{};
    --used_;
  }

  Slab<ContentNode> nodes_;
  std::vector<Slot> slots_;
  std::size_t used_ = 0;
};

}  // namespace orrery::kv
