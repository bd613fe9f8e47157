// Who is served first and who has to go, by arrival or by priority (§1.2; `request_queue.py`).
#include <algorithm>

#include "sim/schedulers/vllm_v1.h"

namespace orrery {

// §1.2: FCFS serves by arrival, preempted ones first; PRIORITY by (priority, arrival, request), preempted or
// not (request_queue.py).
void VllmV1Scheduler::enqueue(Slot slot, bool preempted) {
  if (config_.by_priority) {
    const auto place = std::upper_bound(waiting_.begin(), waiting_.end(), slot,
                                        [&](Slot a, Slot b) { return before(a, b); });
    if (place == waiting_.begin()) head_blocked_ = false;
    waiting_.insert(place, slot);
    return;
  }
  if (waiting_.empty() || preempted) head_blocked_ = false;
  if (preempted)
    waiting_.push_front(slot);
  else
    waiting_.push_back(slot);
}

bool VllmV1Scheduler::before(Slot a, Slot b) const {
  const Sequence &x = sequences_[a], &y = sequences_[b];
  if (x.priority != y.priority) return x.priority < y.priority;
  return x.arrival != y.arrival ? x.arrival < y.arrival : x.request < y.request;
}

// FCFS: the last of the running list. PRIORITY: the least urgent of all, the latest of equals; what it was
// given in this very step is taken back.
VllmV1Scheduler::Slot VllmV1Scheduler::victim(Slot needy, std::int64_t& budget) {
  if (!config_.by_priority) return running_tail_;
  Slot least = running_head_;
  for (Slot slot = least; slot != no_slot; slot = sequences_[slot].next) {
    const Sequence &x = sequences_[slot], &y = sequences_[least];
    if (std::pair(x.priority, x.arrival) > std::pair(y.priority, y.arrival)) least = slot;
  }
  Sequence& s = sequences_[least];
  if (s.order >= sequences_[needy].order) return least;
  if (speculates() && s.state == State::decoding) {
    take_back_verification(least, budget);
    return least;
  }
  if (s.state == State::decoding) {
    const std::int64_t context = s.base + next_step_;
    --plan_decodes_;
    plan_decode_context_ -= context;
    ++budget;
    s.grown_this_step = context % config_.block_size == 0;
    return least;
  }
  const auto chunk = std::find_if(chunks_.begin(), chunks_.end(),
                                  [&](const PrefillWork& w) { return w.sequence == SequenceId(least); });
  if (chunk == chunks_.end()) return least;
  budget += chunk->new_tokens;
  plan_prefill_tokens_ -= chunk->new_tokens;
  chunks_.erase(chunk);
  return least;
}

// For so many blocks, of all groups together. False when the sequence itself had to go.
bool VllmV1Scheduler::make_room(Slot slot, std::int64_t blocks, std::int64_t& budget) {
  while (kv_.free_blocks() < blocks) {
    const Slot gone = victim(slot, budget);
    preempt(gone, sequences_[gone].order <= sequences_[slot].order);
    preempted_for_.push_back(SequenceId(slot));
    if (gone == slot) return false;
  }
  return true;
}

// The sequence itself had to go, which ends the loop over the running list. By priority others may stand
// behind it: they sit the step out.
void VllmV1Scheduler::leave_out_behind(Slot gone) {
  const auto order = sequences_[gone].order;
  for (Slot slot = running_head_; slot != no_slot; slot = sequences_[slot].next) {
    const Sequence& s = sequences_[slot];
    if (s.order < order || s.state != State::decoding) continue;
    if (!speculates()) {
      pause(slot);
    } else if (!last_token_certain(s)) {
      pass_over(slot);
    }
  }
}

void VllmV1Scheduler::requeue(Slot slot) {
  Sequence& s = sequences_[slot];
  if (encoder_ != nullptr) encoder_->preempted(slot);
  unlink_running(slot);
  ++s.epoch;
  s.state = State::waiting;
  s.computed = 0;
  enqueue(slot, true);
  head_blocked_ = false;
  preempted_.push_back(SequenceId(slot));
  ++counters_.preemptions;
}

}  // namespace orrery
