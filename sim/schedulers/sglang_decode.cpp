// Decode steps and retraction (§3; `update_running_batch`, `ScheduleBatch.retract_decode`).
#include <algorithm>

#include "sim/schedulers/sglang.h"

namespace orrery {

SglangScheduler::Kind SglangScheduler::decode() {
  const std::int32_t before = batch_rows();
  emptied_ = dead_rows_ > 0 && running_count_ == 0;
  dead_rows_ = 0;
  const bool some_end = leave_out_ending();
  if (running_count_ == 0) {
    batch_is_full_ = false;
    return Kind::none;
  }
  if (!cache_.make_room(decode_need())) {  // evicts what it can, even in vain
    if (some_end) {
      // Their results bring room: nobody is retracted, the step is left out.
      batch_is_full_ = false;
      return Kind::none;
    }
    retract();
  } else {
    ratio_.decay();
  }
  if (running_count_ < before) batch_is_full_ = false;
  if (running_count_ == 0) return Kind::none;
  launch_decode(false);
  return Kind::decode;
}

// §1.2: those whose result in flight is their last by length. Without overlap their results are known and
// they are gone already.
bool SglangScheduler::leave_out_ending() {
  if (config_.walking()) return leave_out_ending_speakers();
  bool any = false;
  for (const Slot slot : ending_) {
    Sequence& s = sequences_[slot];
    if (!s.running) continue;
    leave_running(s);
    --running_count_;
    --ending_running_[s.ignore_eos ? 1 : 0];
    any = true;
  }
  return any;
}

void SglangScheduler::launch_decode(bool mixed) {
  if (config_.walking()) return launch_verification(mixed);
  const std::int64_t page = config_.cache.page_size;
  if (cache_.windowed()) slide_running();
  // With pages the engine makes room as if everybody began one (`alloc_paged_token_slots_decode`).
  if (page > 1) cache_.make_room(running_count_ * page);
  cache_.take(decode_need());
  plan_decodes_ = running_count_;
  plan_context_ = decodes_.context_sum(decodes_launched_);
  launching_.decodes = true;
  for (const Entry& entry : fresh_) {
    if (known(entry) && sequences_[entry.slot].state == State::decoding)
      launching_.irregular.push_back(SequenceId(entry.slot));
  }
  fresh_.clear();
  launching_.regular = plan_decodes_ - static_cast<std::int32_t>(launching_.irregular.size());
  ++decodes_launched_;
}

void SglangScheduler::leave_decode_set(Slot slot) {
  Sequence& s = sequences_[slot];
  if (config_.walking()) return stop_speaking(slot);
  decodes_.remove(s.base);
  reserves_[s.ignore_eos ? 1 : 0].remove(s.last_decode);
}

// ------------------------------------------------------------------------------------------------ retraction

std::vector<SglangScheduler::Slot> SglangScheduler::running_in_order() const {
  if (config_.walking()) return speakers_;
  std::vector<Slot> slots;
  for (Slot slot = 0; slot < sequences_.size(); ++slot) {
    if (sequences_[slot].running) slots.push_back(slot);
  }
  std::sort(slots.begin(), slots.end(),
            [&](Slot a, Slot b) { return sequences_[a].order < sequences_[b].order; });
  return slots;
}

// Fewest outputs first, then the longest prompt, then the latest in the batch; at least one goes, one stays.
void SglangScheduler::retract() {
  std::vector<Slot> keep = running_in_order();
  const Slot head = keep.front();
  std::stable_sort(keep.begin(), keep.end(), [&](Slot a, Slot b) {
    const Sequence &x = sequences_[a], &y = sequences_[b];
    if (config_.retraction_by_priority && x.priority != y.priority) return x.priority < y.priority;
    const std::int32_t have = known_outputs(x), has = known_outputs(y);
    return have != has ? have > has : x.prompt < y.prompt;
  });
  bool first = true;
  while (first || !cache_.make_room(decode_need())) {
    if (keep.size() == 1) break;
    first = false;
    const Slot slot = keep.back();
    keep.pop_back();
    retract_one(slot, keep.size());
    const Slot by = slot == head ? keep.front() : head;
    if (config_.role == SglangRole::decode) {
      remote_.retracted.push_back(slot);
      note_preemption(slot, by);
    } else if (enqueue(slot)) {  // at the tail (§3)
      note_preemption(slot, by);
    }
  }
  if (keep.size() <= 1 && !cache_.make_room(decode_need())) {
    const Slot slot = keep.back();
    keep.pop_back();
    retract_one(slot, 0);
    aborted_.push_back(SequenceId(slot));
    drop_slot(slot);
  }
  std::int64_t outputs = 0, limits = 0;
  for (const Slot slot : keep) {
    outputs += known_outputs(sequences_[slot]);
    limits += sequences_[slot].max_output;
  }
  const auto left = static_cast<std::int64_t>(keep.size());
  ratio_.after_retraction(outputs, config_.retract_decode_steps * left, limits);
}

// KV goes without being kept, except what the tree owns; the token in flight is thrown away.
void SglangScheduler::retract_one(Slot slot, std::size_t remaining) {
  Sequence& s = sequences_[slot];
  const std::int32_t outputs = known_outputs(s);
  const std::int64_t context = held_by(s);
  forget_token_in_flight(slot);
  if (s.state == State::ending && !config_.walking()) {
    std::erase(ending_, slot);
    --ending_running_[s.ignore_eos ? 1 : 0];
  } else {
    leave_decode_set(slot);
  }
  release(slot, context, context, false);
  if (config_.role == SglangRole::decode) {
    const std::int64_t written = config_.walking() ? s.speech.committed : context;
    remote_.offloaded += cache_.page_ceil(written) / config_.cache.page_size;
  }
  if (config_.cache.prefix_sharing)
    cache_.make_room(static_cast<std::int64_t>(remaining) * config_.retract_decode_steps);
  s.outputs = outputs;
  s.state = State::waiting;
  leave_running(s);
  --running_count_;
  ++s.epoch;
}

// The token that a step in flight samples for the sequence reaches nobody.
void SglangScheduler::forget_token_in_flight(Slot slot) {
  if (config_.walking()) return;  // its entry in the step is stale from now on
  // After a prompt it is no decode's: then its entry in the step is stale, which is enough.
  const Sequence& s = sequences_[slot];
  if (!decode_in_flight() || s.prefill_step == next_step_ - 1) return;
  if (s.state == State::ending && s.last_decode != decodes_launched_ - 1) return;
  Launched& open = open_.back();
  if (std::erase(open.irregular, SequenceId(slot)) == 0) --open.regular;
}

}  // namespace orrery
