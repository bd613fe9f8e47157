// Places of sequences in a scheduler's table: the one that was given back last is taken first.
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

}  // namespace orrery
