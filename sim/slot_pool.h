// Places of sequences in a scheduler's table: the one that was given back last is taken first. And lists of
// sequences there.
#pragma once

#include <cstdint>
#include <vector>

namespace orrery {

class SlotPool {
 public:
  // Of `table`, which grows when no place is free. What lay there is the caller's to replace.
  template <class Sequence>
  std::uint32_t take(std::vector<Sequence>& table) {
    if (free_.empty()) {
      table.emplace_back();
      return static_cast<std::uint32_t>(table.size() - 1);
    }
    const std::uint32_t slot = free_.back();
    free_.pop_back();
    return slot;
  }
  void give_back(std::uint32_t slot) { free_.push_back(slot); }

 private:
  std::vector<std::uint32_t> free_;
};

// Sequences in the order in which they joined, linked by slot through their `previous` and `next`; `none`
// ends the list either way.
template <class Sequence>
void link_slot(std::vector<Sequence>& table, std::uint32_t slot, std::uint32_t none, std::uint32_t& head,
               std::uint32_t& tail) {
  table[slot].previous = tail;
  table[slot].next = none;
  (tail == none ? head : table[tail].next) = slot;
  tail = slot;
}
template <class Sequence>
void unlink_slot(std::vector<Sequence>& table, std::uint32_t slot, std::uint32_t none, std::uint32_t& head,
                 std::uint32_t& tail) {
  Sequence& s = table[slot];
  (s.previous == none ? head : table[s.previous].next) = s.next;
  (s.next == none ? tail : table[s.next].previous) = s.previous;
  s.previous = s.next = none;
}

}  // namespace orrery
