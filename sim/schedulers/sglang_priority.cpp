// Who waits where, who may not wait, and who has to leave for a more urgent request (§2.2, §2.9;
// `SchedulePolicy.calc_priority`, `_abort_on_queued_limit`, `PrefillAdder.preempt_to_schedule`).
#include <algorithm>
#include <tuple>

#include "sim/schedulers/sglang.h"
#include "workloads/priority.h"

namespace orrery {

// `_set_default_priority` (tokenizer_manager.py) and `_set_or_validate_priority`: who says none has the
// default, or is the least urgent of all. The less, the sooner.
std::int64_t SglangScheduler::rank_of(std::int32_t priority) const {
  constexpr std::int64_t last = std::int64_t{1} << 62;  // sys.maxsize, halved: differences stay in range
  const bool said = priority != no_priority;
  if (!said && !config_.enable_priority_scheduling) return 0;
  if (!said && !config_.default_priority_value) return last;
  const std::int64_t value = said ? priority : *config_.default_priority_value;
  return config_.schedule_low_priority_values_first ? value : -value;
}

// The engine sorts at every attempt; entries do not change while they wait, so that it is enough to put each
// in its place: by priority, then by time (fcfs) or by the longest output (lof), ties by time.
bool SglangScheduler::before(Slot a, Slot b) const {
  const Sequence &x = sequences_[a], &y = sequences_[b];
  if (x.priority != y.priority) return x.priority < y.priority;
  if (config_.schedule_policy == QueuePolicy::lof && x.max_output != y.max_output)
    return x.max_output > y.max_output;
  return x.queued < y.queued;
}

// False: the queue is full, and somebody who was running has no place in it (503). With priorities one that
// waits may have to go instead.
bool SglangScheduler::enqueue(Slot slot) {
  sequences_[slot].queued = next_queued_++;
  sequences_[slot].queued_at_tokens = prefilled_tokens_;
  if (queue_is_full()) {
    const Slot worst = config_.enable_priority_scheduling ? worst_waiting() : slot;
    const bool instead = sequences_[slot].priority < sequences_[worst].priority;
    turned_away_.push_back(instead ? worst : slot);
    if (!instead) return false;
    std::erase(waiting_, worst);
  }
  if (!config_.enable_priority_scheduling) {
    waiting_.push_back(slot);
    return true;
  }
  const auto place =
      std::upper_bound(waiting_.begin(), waiting_.end(), slot, [&](Slot a, Slot b) { return before(a, b); });
  waiting_.insert(place, slot);
  return true;
}

// The least urgent, of equals the latest.
SglangScheduler::Slot SglangScheduler::worst_waiting() const {
  return *std::max_element(waiting_.begin(), waiting_.end(), [&](Slot a, Slot b) {
    const Sequence &x = sequences_[a], &y = sequences_[b];
    return std::pair(x.priority, x.queued) < std::pair(y.priority, y.queued);
  });
}

// What of the budget a running request's future takes (`_get_running_request_total_token_offset`).
double SglangScheduler::future_of(const Sequence& s) const {
  const std::int64_t left = s.max_output - known_outputs(s);
  return static_cast<double>(std::min(left, config_.clip_max_new_tokens)) *
         (s.ignore_eos ? 1.0 : ratio_.now());
}

// §2.9. The estimate counts the victims' futures, not the KV that they hold, and of a request that was never
// looked up not even its prompt (`full_untruncated_fill_ids` is empty until then).
bool SglangScheduler::preempt_for(Adder& adder, Slot slot) {
  const Sequence& urgent = sequences_[slot];
  double missing =
      static_cast<double>(urgent.looked_up == 0 ? 0 : urgent.looked_up - urgent.prefix) +
      static_cast<double>(std::min<std::int64_t>(urgent.max_output, config_.clip_max_new_tokens)) -
      remaining_total(adder);
  std::vector<Slot> victims;
  std::vector<Slot> order = running_in_order();
  std::sort(order.begin(), order.end(), [&](Slot a, Slot b) {
    const Sequence &x = sequences_[a], &y = sequences_[b];
    return std::pair(x.priority, x.queued) > std::pair(y.priority, y.queued);
  });
  for (const Slot candidate : order) {
    const Sequence& s = sequences_[candidate];
    if (s.priority - urgent.priority <= config_.priority_scheduling_preemption_threshold) break;
    victims.push_back(candidate);
    missing -= future_of(s);
    if (missing <= 0) break;
  }
  if (victims.empty() || missing > 0) return false;
  // Out they go in the order of the batch.
  std::sort(victims.begin(), victims.end(),
            [&](Slot a, Slot b) { return sequences_[a].order < sequences_[b].order; });
  std::size_t stay = order.size();
  for (const Slot victim : victims) {
    adder.total_offset -= future_of(sequences_[victim]);
    retract_one(victim, --stay);
    displaced_.push_back({victim, slot});
  }
  return true;
}

void SglangScheduler::note_preemption(Slot slot, Slot by) {
  preempted_.push_back(SequenceId(slot));
  preempted_for_.push_back(SequenceId(by));
  ++counters_.preemptions;
}

}  // namespace orrery
