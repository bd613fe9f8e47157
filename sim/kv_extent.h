// An extent: consecutive blocks [begin, end) of one sequence's content that were allocated by one sequence,
// have the same number of holders and, if nobody holds them, stand together in the free list.
#pragma once

#include <cstdint>

#include "sim/kv_slab.h"

namespace orrery::kv {

struct Links {
  Id prev = kNone;
  Id next = kNone;
};

struct Extent {
  std::int32_t begin = 0;  // block index in the sequence
  std::int32_t end = 0;
  std::int32_t holders = 0;  // reference count of each of its blocks; 0: in the free queue
  Id node = kNone;           // what its blocks hold
  Links copies;              // of that node, in the order in which content was registered
  Links run;                 // neighbours by position among what one sequence allocated; gaps after evictions
  Links queue;  // the free queue, head first; inside an extent the block at end − 1 comes first

  std::int32_t size() const { return end - begin; }
};

// A doubly linked list threaded through extents.
template <Links Extent::*Via>
struct ExtentList {
  Id first = kNone;
  Id last = kNone;

  bool empty() const { return first == kNone; }
  void push_back(Slab<Extent>& extents, Id id) {
    extents[id].*Via = Links{last, kNone};
    (last == kNone ? first : (extents[last].*Via).next) = id;
    last = id;
  }
  void insert_before(Slab<Extent>& extents, Id id, Id place) {
    const Id before = (extents[place].*Via).prev;
    extents[id].*Via = Links{before, place};
    (extents[place].*Via).prev = id;
    (before == kNone ? first : (extents[before].*Via).next) = id;
  }
  void insert_after(Slab<Extent>& extents, Id id, Id place) {
    const Id after = (extents[place].*Via).next;
    extents[id].*Via = Links{place, after};
    (extents[place].*Via).next = id;
    (after == kNone ? last : (extents[after].*Via).prev) = id;
  }
  void remove(Slab<Extent>& extents, Id id) {
    const Links links = extents[id].*Via;
    (links.prev == kNone ? first : (extents[links.prev].*Via).next) = links.next;
    (links.next == kNone ? last : (extents[links.next].*Via).prev) = links.prev;
  }
};

using CopyList = ExtentList<&Extent::copies>;
using FreeQueue = ExtentList<&Extent::queue>;

}  // namespace orrery::kv
