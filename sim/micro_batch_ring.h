// The loop over micro-batches with which SGLang and TensorRT-LLM drive pipeline stages (`event_loop_pp`,
// `_executor_loop_pp`): a ring of places, each with at most one batch in flight. The loop stands at a place,
// composes a batch for it, launches it, processes the result of the next place's batch if that has one in
// flight, and goes there. So a place that is in flight is one whose result the loop waits for, and it is the
// oldest in flight.
#pragma once

#include <cstddef>
#include <deque>
#include <vector>

#include "base/check.h"

namespace orrery {

class MicroBatchRing {
 public:
  explicit MicroBatchRing(std::size_t places) : in_flight_(places, false) {}

  std::size_t size() const { return in_flight_.size(); }
  std::size_t at() const { return at_; }
  bool blocked() const { return in_flight_[at_]; }
  // The place's batch was launched, or there is none for it; the loop goes on. Returns whether it has a
  // result to process before it stands at the next place.
  bool launch() {
    ORRERY_CHECK(!blocked(), "a place has one batch in flight");
    in_flight_[at_] = true;
    open_.push_back(at_);
    pass();
    return blocked() && size() > 1;
  }
  void pass() { at_ = (at_ + 1) % size(); }
  // The oldest batch's result is being processed: whose.
  std::size_t update() {
    const std::size_t place = open_.front();
    open_.pop_front();
    in_flight_[place] = false;
    return place;
  }

 private:
  std::vector<bool> in_flight_;
  std::deque<std::size_t> open_;  // oldest first
  std::size_t at_ = 0;
};

}  // namespace orrery
