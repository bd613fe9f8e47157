// What outcomes do to the scheduler's books: tokens delivered, ends, blocks given back (§1.4, §1.5); and how
// many of them may come before the next decision.
#include <algorithm>

#include "sim/schedulers/vllm_v1.h"

namespace orrery {

// How many steps like the one just composed may follow each other without a decision: pure decode, the same
// members, blocks for all of them, and no end among the updates inside.
std::int64_t VllmV1Scheduler::stretch_limit() const {
  constexpr std::int64_t longest = 256;
  if (!config_.stretches || walks() || !chunks_.empty() || plan_decodes_ != decodes_.size() ||
      !preempted_.empty())
    return 1;
  if (!last_token_.empty() || !prefilling_.empty() || !paused_.empty()) return 1;
  if (deferring_ && !waiting_.empty()) return 1;
  if (!remote_.ended.empty() || !remote_.pulls.empty()) return 1;  // asking for KV holds a launch up
  // An update may give back room in the encoder's cache, for which the head of the queue waits.
  if (encoder_ != nullptr && !waiting_.empty() && encoder_->has_references()) return 1;
  if (open_.size() != config_.steps_in_flight) return 1;
  // Heap entries may be stale; a stale top only shortens the stretch.
  const std::int64_t until_end = ends_.earliest() - next_step_ + 1;
  std::int64_t limit = std::min(longest, until_end);
  if (windows_) {
    // Windows free blocks on the way: whoever waits for memory is asked again in every step.
    if (!waiting_.empty() && running_count_ < config_.max_num_seqs) return 1;
    limit = std::min(limit, windows_->next_event() - next_step_);
  }
  if (limit <= 1) return 1;
  return 1 + decodes_.steps_within(next_step_ + 1, kv_.free_blocks() / config_.kv_groups.count(), limit - 1);
}

void UpdateEffects::clear() {
  first_tokens.clear();
  finished.clear();
  regular_decodes.clear();
  stalled.clear();
  irregular.clear();
  said.clear();
  further_tokens = 0;
}

const UpdateEffects& VllmV1Scheduler::on_outcome(const StepOutcome& outcome) {
  effects_.clear();
  ORRERY_CHECK(static_cast<std::int64_t>(outcome.first.value()) == updated_steps_,
               "outcomes come in step order");
  if (walks()) return take_spoken(outcome);
  if (outcome.scheduled > 1) extend_stretch(outcome.scheduled - 1);
  const std::size_t updates = outcome.updates.size();
  open_.update(updates, decodes_.size(), effects_, [](const OpenStep&) {});
  updated_steps_ += static_cast<std::int64_t>(updates);
  open_.fill_up(next_step_ - updated_steps_, decodes_.size());
  const std::int64_t last = updated_steps_ - 1;
  if (encoder_ != nullptr) encoder_->updated(last, [&](Slot slot) { return sequences_[slot].computed; });
  early_.assign(outcome.eos.begin(), outcome.eos.end());
  finish_ended(last, updates - 1);
  return effects_;
}

// The executor ran more steps of the offered stretch: account for what each of them would have decided.
void VllmV1Scheduler::extend_stretch(std::int64_t extra_steps) {
  std::int64_t free = kv_.free_blocks(), lowest = free;
  std::int64_t step = next_step_, slid = 0;
  const std::int64_t members = decodes_.size(), groups = config_.kv_groups.count();
  const std::int64_t blocks =
      decodes_.walk(next_step_, extra_steps, [&](std::int64_t context, std::int64_t fresh) {
        free -= groups * fresh;
        if (windows_) {
          const std::int64_t sliding = windows_->counted(step++);
          free += config_.kv_groups.windowed * sliding;
          slid += sliding;
        }
        lowest = std::min(lowest, free);
        digest_plan(members, context, free);
      });
  kv_.grow_unattributed(blocks);
  if (slid > 0) kv_.slide_counted(slid);
  counters_.min_free_blocks = std::min(counters_.min_free_blocks, lowest);
  next_step_ += extra_steps;
}

void VllmV1Scheduler::digest_plan(std::int64_t decode_sequences, std::int64_t decode_context,
                                  std::int64_t free_blocks) {
  digest_.add((decode_sequences << 48) ^ (decode_context << 20) ^ free_blocks);
}

// Sequences whose last token this update brought, by length or by EOS, in running order: the engine walks a
// step's outputs in it, and their blocks go back in it (§1.4).
void VllmV1Scheduler::finish_ended(std::int64_t step, std::size_t update) {
  retire_ended(step + 1);
  if (last_token_.empty() && early_.empty()) return;
  const auto says_eos = [&](Slot slot) {
    return std::find(early_.begin(), early_.end(), SequenceId(slot)) != early_.end();
  };
  ended_.clear();
  std::erase_if(last_token_, [&](Slot slot) {
    if (sequences_[slot].last_step > step || says_eos(slot)) return false;
    ended_.push_back(slot);
    return true;
  });
  for (const SequenceId sequence : early_) ended_.push_back(sequence.value());
  std::sort(ended_.begin(), ended_.end(),
            [&](Slot a, Slot b) { return sequences_[a].order < sequences_[b].order; });
  for (const Slot slot : ended_) {
    if (says_eos(slot)) {
      finish_early(SequenceId(slot), step, update);
      continue;
    }
    const Sequence& s = sequences_[slot];
    finish(slot, s.max_output, s.prompt + s.max_output - 1, update);
  }
}

// An EOS: learned one update late, so that a step with one wasted token may already be under way (§1.5).
void VllmV1Scheduler::finish_early(SequenceId sequence, std::int64_t step, std::size_t update) {
  const Slot slot = sequence.value();
  Sequence& s = sequences_[slot];
  std::int32_t outputs = s.outputs;
  std::int64_t computed = s.computed;
  if (s.state == State::decoding) {
    const std::int64_t wasted = next_step_ - 1 - step;
    outputs = s.max_output - static_cast<std::int32_t>(s.last_step - step);
    computed = s.base + next_step_;
    leave_decode_set(slot, next_step_ - 1);
    if (wasted > 0) open_.forget_wasted_token(sequence);
  } else if (s.state == State::last_token) {
    // The limit came right behind the EOS: its last planned token is the wasted one.
    const std::int64_t wasted = s.last_step - step;
    outputs = s.max_output - static_cast<std::int32_t>(wasted);
    if (wasted > 0) open_.forget_wasted_token(sequence);
    std::erase(last_token_, slot);
  } else if (s.state == State::paused) {
    std::erase(paused_, slot);
  }
  finish(slot, outputs, computed, update);
}

// Output tokens that updates have brought so far.
std::int32_t VllmV1Scheduler::known_outputs(const Sequence& s) const {
  const std::int64_t updated = updated_steps_ - 1;
  switch (s.state) {
    case State::prefilling: return s.outputs;
    case State::decoding:
    case State::last_token:
      return s.max_output - static_cast<std::int32_t>(std::max<std::int64_t>(0, s.last_step - updated));
    case State::waiting:
    case State::loading:
    case State::held:
    case State::paused: break;
  }
  return s.outputs - static_cast<std::int32_t>(std::max<std::int64_t>(0, s.left_decode - 1 - updated));
}

// `finish_requests` with FINISHED_ABORTED: out of its queue, blocks free at once, even those that a step in
// flight still writes (without a KV connector; §1.5 defer_block_free). What that step samples is dropped.
std::int32_t VllmV1Scheduler::drop_departed(SequenceId sequence) {
  const Slot slot = sequence.value();
  const Sequence& s = sequences_[slot];
  // Blocks that a transfer still fills are kept until it has ended (`delay_free_blocks`).
  if (s.state == State::loading) return -1;
  if (walks()) return drop_speaking(slot);
  const std::int32_t outputs = known_outputs(s);
  const std::int64_t end = s.state == State::decoding ? next_step_ : s.left_decode;
  open_.forget(sequence, [&](std::int64_t i) {
    return updated_steps_ + i >= s.first_decode && updated_steps_ + i < end;
  });
  std::erase(last_token_, slot);
  if (s.state == State::waiting) {
    refuse_pull(slot);
    std::erase(waiting_, slot);
    std::erase(skipped_, slot);
  } else {
    const std::int64_t computed = context_of(s);
    // As in preempt(): the block of a token in flight is not registered.
    const bool in_flight = s.state != State::prefilling && next_step_ > updated_steps_;
    const std::int64_t hashed = in_flight ? std::max(s.target, computed - 1) : computed;
    if (s.state == State::decoding) leave_decode_set(slot, next_step_ - 1);
    if (s.state == State::prefilling) std::erase(prefilling_, slot);
    if (s.state == State::paused) std::erase(paused_, slot);
    release_blocks(slot, blocks_for(computed), hashed / config_.block_size);
    unlink_running(slot);
  }
  head_blocked_ = false;
  digest_.add(s.request.value() * 4);
  digest_.add(static_cast<std::int64_t>(outputs));
  drop_slot(slot);
  return outputs;
}

void VllmV1Scheduler::finish(Slot slot, std::int32_t outputs, std::int64_t computed, std::size_t update) {
  const Sequence& s = sequences_[slot];
  const bool holds = s.leg == RequestLeg::prefill && s.state != State::waiting;
  if (holds) {
    unlink_running(slot);
  } else if (s.state == State::waiting) {  // preempted with its last token in flight: its blocks are gone
                                           // already
    std::erase(waiting_, slot);
    std::erase(skipped_, slot);
  } else {
    // The last sampled token has no KV and never counts (§2.3).
    const std::int64_t known = s.prompt + outputs - 1;
    if (offload_ != nullptr) store_on_host(slot, known, false);
    release_blocks(slot, blocks_held(s, computed), known / config_.block_size);
    unlink_running(slot);
  }
  head_blocked_ = false;
  digest_.add(s.request.value() * 4 + 3);
  digest_.add(static_cast<std::int64_t>(outputs));
  effects_.finished.push_back({.sequence = SequenceId(slot),
                               .request = s.request,
                               .output_tokens = outputs,
                               .update = update,
                               .drafts = s.speech.drafts_seen,
                               .accepted = s.speech.accepted_seen,
                               .held = holds});
  if (holds) return hold(slot, computed);
  drop_slot(slot);
}

}  // namespace orrery
