// When the members of a decode set sample their last token. An entry whose sequence has moved on in the
// meantime (ended early, preempted, its place given to another) stays until it comes to the top.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <vector>

namespace orrery {

class DecodeEnds {
 public:
  struct End {
    std::int64_t step = 0;   // that samples the last token, in the scheduler's own count
    std::int64_t order = 0;  // of those in one step
    std::uint32_t slot = 0, epoch = 0;
  };

  void push(const End& end) {
    heap_.push_back(end);
    std::push_heap(heap_.begin(), heap_.end(), later);
  }
  // The first end before `step`, taken out; none when there is none. `stale(end)`: its sequence has moved on.
  template <class Stale>
  std::optional<End> take_before(std::int64_t step, Stale stale) {
    while (!heap_.empty()) {
      const End end = heap_.front();
      const bool gone = stale(end);
      if (!gone && end.step >= step) return std::nullopt;
      std::pop_heap(heap_.begin(), heap_.end(), later);
      heap_.pop_back();
      if (!gone) return end;
    }
    return std::nullopt;
  }
  bool empty() const { return heap_.empty(); }
  // No end comes before this step; a stale entry may make it too early. There must be an entry.
  std::int64_t earliest() const { return heap_.front().step; }

 private:
  // std::push_heap keeps the largest on top, so "smaller" means "ends later".
  static bool later(const End& a, const End& b) {
    return a.step != b.step ? a.step > b.step : a.order > b.order;
  }
  std::vector<End> heap_;
};

}  // namespace orrery
