#include "sim/costed/end_tracker.h"

#include <algorithm>

namespace orrery {

void EndTracker::set_end(std::uint32_t slot, std::int64_t step) {
  if (slot >= end_of_slot_.size()) end_of_slot_.resize(slot + 1, -1);
  end_of_slot_[slot] = step;
  if (step < 0) return;
  ends_.push_back({step, slot});
  std::push_heap(ends_.begin(), ends_.end(), later);
}

void EndTracker::ended(SequenceId sequence) {
  if (!mine(sequence)) return;
  const std::uint32_t slot = slot_of(sequence);
  if (slot < end_of_slot_.size()) set_end(slot, -1);
  if (!at_once_.empty()) std::erase_if(at_once_, [&](const End& end) { return end.slot == slot; });
}

void EndTracker::track(std::int64_t step, const StepPlan& plan, std::span<const PrefillWork> prefill,
                       std::span<const PrefillWork> joined, bool stalls_decodes) {
  const std::int64_t decode = next_decode_;  // this step's, unless it stalls
  for (const SequenceId id : plan.paused) {
    const std::uint32_t slot = slot_of(id);
    if (mine(id) && tracked(slot) && end_of_slot_[slot] >= decode) set_end(slot, end_of_slot_[slot] + 1);
  }
  // A preempted sequence may still have its EOS in flight; a later one will be found again after it resumes.
  for (const std::span<const SequenceId> gone : {plan.preempted, plan.aborted}) {
    for (const SequenceId id : gone) {
      const std::uint32_t slot = slot_of(id);
      if (mine(id) && tracked(slot) && end_of_slot_[slot] >= decode) set_end(slot, -1);
    }
  }
  for (const PrefillWork& w : joined) {
    const std::int32_t eos = oracle_->eos_after(w.request);
    set_end(slot_of(w.sequence), eos > 0 ? decode + eos - w.outputs_before - 1 : -1);
  }
  for (const PrefillWork& w : prefill) {
    if (!w.samples) continue;
    const std::uint32_t slot = slot_of(w.sequence);
    const std::int32_t eos = oracle_->eos_after(w.request);
    const std::int64_t left = eos - w.outputs_before;
    if (eos > 0 && stalls_decodes && left == 1) {
      at_once_.push_back({step, slot});
    } else if (eos > 0) {
      set_end(slot, decode + left - (stalls_decodes ? 2 : 1));
    } else if (tracked(slot)) {
      set_end(slot, -1);
    }
  }
}

std::int64_t EndTracker::next_end() {
  while (!ends_.empty() && end_of_slot_[ends_.front().slot] != ends_.front().step) {
    std::pop_heap(ends_.begin(), ends_.end(), later);
    ends_.pop_back();
  }
  return ends_.empty() ? INT64_MAX / 2 : ends_.front().step;
}

std::int64_t EndTracker::updates_until_end(std::int64_t next_update) {
  const std::int64_t end = next_end();
  std::int64_t updates = 0;
  for (const std::int64_t decode : open_) {
    const std::int64_t step = next_update + updates++;
    for (const End& first : at_once_) {
      if (first.step == step) return updates;
    }
    if (decode >= 0 && decode == end) return updates;
  }
  return updates + end - next_decode_ + 1;
}

void EndTracker::run(std::int64_t steps, bool decodes) {
  const auto ahead = static_cast<std::int64_t>(open_.size());
  for (std::int64_t i = std::max<std::int64_t>(0, steps - ahead - 1); i < steps; ++i)
    open_.push_back(decodes ? next_decode_ + i : -1);
  if (decodes) next_decode_ += steps;
  while (static_cast<std::int64_t>(open_.size()) > ahead) update();
}

void EndTracker::take(std::int64_t step, std::vector<SequenceId>& eos) {
  std::erase_if(at_once_, [&](const End& first) {
    if (first.step == step) eos.push_back(id_of(first.slot));
    return first.step == step;
  });
  if (updated_ < 0) return;
  while (next_end() == updated_) {
    eos.push_back(id_of(ends_.front().slot));
    end_of_slot_[ends_.front().slot] = -1;
  }
}

}  // namespace orrery
