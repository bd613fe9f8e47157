// A binary min-heap over dense indices whose keys change: next event per instance. O(log n) per change, the
// smallest in O(1); equal times are ordered by index, so the order is semantic.
#pragma once

#include <cstdint>
#include <vector>

#include "base/time.h"

namespace orrery {

class IndexedTimeHeap {
 public:
  explicit IndexedTimeHeap(std::size_t count) : times_(count, SimTime::never()), place_(count), heap_(count) {
    for (std::size_t i = 0; i < count; ++i) place_[i] = heap_[i] = static_cast<std::uint32_t>(i);
  }
  std::uint32_t first() const { return heap_[0]; }
  SimTime first_time() const { return heap_.empty() ? SimTime::never() : times_[heap_[0]]; }
  SimTime time(std::uint32_t index) const { return times_[index]; }
  void set(std::uint32_t index, SimTime time) {
    const SimTime before = times_[index];
    times_[index] = time;
    if (time < before)
      up(place_[index]);
    else
      down(place_[index]);
  }

 private:
  bool less(std::uint32_t a, std::uint32_t b) const {
    return times_[a] != times_[b] ? times_[a] < times_[b] : a < b;
  }
  void put(std::size_t at, std::uint32_t index) {
    heap_[at] = index;
    place_[index] = static_cast<std::uint32_t>(at);
  }
  void up(std::size_t at) {
    const std::uint32_t index = heap_[at];
    while (at > 0 && less(index, heap_[(at - 1) / 2])) {
      put(at, heap_[(at - 1) / 2]);
      at = (at - 1) / 2;
    }
    put(at, index);
  }
  void down(std::size_t at) {
    const std::uint32_t index = heap_[at];
    for (;;) {
      std::size_t child = 2 * at + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && less(heap_[child + 1], heap_[child])) ++child;
      if (!less(heap_[child], index)) break;
      put(at, heap_[child]);
      at = child;
    }
    put(at, index);
  }

  std::vector<SimTime> times_;
  std::vector<std::uint32_t> place_, heap_;
};

}  // namespace orrery
