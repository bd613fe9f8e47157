// When the sequences of one rank say EOS. Steps that run the decode set are numbered by themselves, so that a
// step that stalls it, or that the rank sits out, moves no end.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "base/ids.h"
#include "sim/request.h"
#include "sim/step_plan.h"

namespace orrery {

class EndTracker {
 public:
  // A lane's sequences are those whose slot is `lane` modulo `lanes`; lanes 1: those that it was told of.
  EndTracker(const OutputLengths& oracle, std::uint32_t lane, std::uint32_t lanes)
      : oracle_(&oracle), lane_(lane), lanes_(lanes) {}

  // What a plan says of this lane's ends, before its step begins. `step`: the instance's number of it.
  void track(std::int64_t step, const StepPlan& plan, std::span<const PrefillWork> prefill,
             std::span<const PrefillWork> joined, bool stalls_decodes);
  void ended(SequenceId sequence);
  // Updates from now on up to and with the first one that brings an EOS, when decode steps follow.
  std::int64_t updates_until_end(std::int64_t next_update);

  void begin(bool decodes) { open_.push_back(decodes ? next_decode_++ : -1); }
  // One update of the oldest open step.
  void update() {
    updated_ = open_.front();
    open_.pop_front();
  }
  // A stretch: so many decode steps (or, where the lane sits it out, none of its own) and as many updates.
  void run(std::int64_t steps, bool decodes);
  // Appends who said EOS in the last updated step, the instance's `step`.
  void take(std::int64_t step, std::vector<SequenceId>& eos);

 private:
  struct End {
    std::int64_t step;
    std::uint32_t slot;
  };
  static bool later(const End& a, const End& b) {
    return a.step != b.step ? a.step > b.step : a.slot > b.slot;
  }
  bool mine(SequenceId id) const { return lanes_ == 1 || id.value() % lanes_ == lane_; }
  std::uint32_t slot_of(SequenceId id) const {
    return lanes_ == 1 ? static_cast<std::uint32_t>(id.value())
                       : static_cast<std::uint32_t>(id.value() / lanes_);
  }
  SequenceId id_of(std::uint32_t slot) const { return SequenceId(slot * lanes_ + lane_); }
  bool tracked(std::uint32_t slot) const { return slot < end_of_slot_.size() && end_of_slot_[slot] >= 0; }
  void set_end(std::uint32_t slot, std::int64_t step);
  std::int64_t next_end();

  const OutputLengths* oracle_;
  std::uint32_t lane_, lanes_;
  std::int64_t next_decode_ = 0;           // number of the next step that runs the decode set
  std::deque<std::int64_t> open_;          // numbers of the open steps; −1 = stalls the decode set
  std::int64_t updated_ = -1;              // of the last updated step
  std::vector<End> ends_;                  // min-heap by decode step; entries go stale
  std::vector<std::int64_t> end_of_slot_;  // −1 = none
  std::vector<End> at_once_;               // first tokens that are the last: by step, of steps that stall
};

}  // namespace orrery
