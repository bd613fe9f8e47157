// Speculative decoding (../shared/reference/vllm_0_24.md §1.8; `v1/core/sched/scheduler.py`,
// `async_scheduler.py`): a decode brings one token and its drafts, an outcome says how many tokens came of
// it.
//
// A sequence's advance is random, so the sums of a decode set do not hold: each step walks the running list
// as the engine does, O(running). Pipeline stages walk too, without drafts: who may run depends on the steps
// in flight (`next_decode_eligible_step`). Without either nothing here runs.
#include <algorithm>

#include "sim/schedulers/vllm_v1.h"

namespace orrery {

// §1.2 rule 2 with n = num_tokens_with_spec + placeholders − computed.
void VllmV1Scheduler::schedule_running_speculating(std::int64_t& budget) {
  Slot slot = running_head_;
  while (slot != no_slot && budget > 0) {
    Sequence& s = sequences_[slot];
    if (s.state == State::decoding) {
      if (!schedule_verification(slot, budget)) return leave_out_behind(slot);
    } else if (s.state == State::prefilling) {
      const std::int64_t n = at_block_ends(s, with_images(slot, chunk_size(s, budget)));
      if (n > 0) {
        if (windows_) windows_->before_chunk(slot, s.kv, certain(s.computed));
        const std::int64_t blocks =
            std::max<std::int64_t>(0, blocks_for(with_lookahead(s.computed + n)) - s.speech.blocks);
        if (!make_room(slot, chunk_blocks(blocks), budget)) return leave_out_behind(slot);
        if (encoder_ != nullptr) encoder_->commit(slot);
        kv_.grow(s.kv, blocks);
        s.speech.blocks += blocks;
        add_chunk(slot, n);
        budget -= n;
      }
    }
    slot = sequences_[slot].next;
  }
  for (; slot != no_slot && !staged(); slot = sequences_[slot].next) {
    if (sequences_[slot].state == State::decoding && !last_token_certain(sequences_[slot])) pass_over(slot);
  }
}

// First skip of the engine's loop: what is in flight ends the sequence even if every draft of it is rejected.
bool VllmV1Scheduler::last_token_certain(const Sequence& s) const {
  const Sequence::Speech& speech = s.speech;
  return speech.placeholders > 0 &&
         s.computed + 2 - speech.placeholders >= std::int64_t{s.prompt} + s.max_output;
}

// False when the sequence itself had to go, which ends the loop. Drafts are not cut at the client's limit,
// only by the budget, the threshold and the model's length.
bool VllmV1Scheduler::schedule_verification(Slot slot, std::int64_t& budget) {
  Sequence& s = sequences_[slot];
  Sequence::Speech& speech = s.speech;
  if (last_token_certain(s) || (staged() && next_step_ < speech.next_step)) return true;
  const std::int64_t known = std::int64_t{s.prompt} + s.outputs;
  std::int64_t n = known + speech.drafts + speech.placeholders - s.computed;
  const std::int64_t threshold = config_.long_prefill_token_threshold;
  if (threshold > 0) n = std::min(n, threshold);
  n = std::min({n, budget, config_.max_model_len - s.computed - 1});
  if (n <= 0) {  // stages without asynchronous scheduling: its token is in flight
    if (!staged()) pass_over(slot);
    return true;
  }
  if (windows_) windows_->before_verification(slot, s.kv, certain(s.computed));
  const std::int64_t blocks =
      std::max<std::int64_t>(0, blocks_for(with_lookahead(s.computed + n)) - speech.blocks);
  if (!make_room(slot, in_all_groups(blocks), budget)) return false;
  kv_.grow_unattributed(blocks);
  speech.blocks += blocks;
  const auto drafts = static_cast<std::int32_t>(
      std::clamp<std::int64_t>(n + s.computed - known - speech.placeholders, 0, speech.drafts));
  verify_.push_back({.sequence = SequenceId(slot), .request = s.request, .drafts = drafts});
  if (speech.passed_over) irregular_now_.push_back(SequenceId(slot));
  speech.passed_over = false;
  ++plan_decodes_;
  plan_decode_context_ += s.computed;
  budget -= n;
  speech.hashed = std::max(speech.hashed, std::min(s.computed + n, known));
  s.computed += n;
  ++speech.in_flight;
  speech.next_step = next_step_ + config_.pipeline.cadence;
  // `_update_after_schedule`: the next step's drafts are placeholders until this one has run.
  speech.drafts = asynchronous() ? config_.speculation.tokens : 0;
  if (asynchronous()) speech.placeholders += 1 + drafts;
  return true;
}

// PRIORITY: who was given its row in this very step loses it to somebody more urgent; it is no step of its.
void VllmV1Scheduler::take_back_verification(Slot slot, std::int64_t& budget) {
  const auto row = std::find_if(verify_.begin(), verify_.end(),
                                [&](const VerifyWork& w) { return w.sequence == SequenceId(slot); });
  if (row == verify_.end()) return;  // certain to end with what is in flight, or passed over
  Sequence& s = sequences_[slot];
  const std::int64_t tokens = row->drafts + 1;
  budget += tokens;
  s.computed -= tokens;
  --plan_decodes_;
  plan_decode_context_ -= s.computed;
  if (asynchronous()) s.speech.placeholders -= row->drafts + 1;
  verify_.erase(row);
}

void VllmV1Scheduler::pass_over(Slot slot) {
  sequences_[slot].speech.passed_over = true;
  paused_now_.push_back(SequenceId(slot));
}

// The prompt is complete with this step, whose drafting network proposes what follows.
void VllmV1Scheduler::start_speaking(Slot slot) {
  Sequence& s = sequences_[slot];
  s.state = State::decoding;
  s.speech.hashed = s.target;
  ++s.speech.in_flight;
  s.speech.next_step = next_step_ + config_.pipeline.cadence;
  s.speech.placeholders = asynchronous() ? 1 : 0;
  s.speech.drafts = asynchronous() ? config_.speculation.tokens : 0;
}

// The batch of nobody: the engine's loop hands it to the workers like any other (`step_with_batch_queue`).
// Nothing is in flight and nothing runs: there is none. Nor while transfers alone are waited for, although
// the engine's loop goes round meanwhile.
const StepPlan& VllmV1Scheduler::finish_empty() {
  const bool transfers = remote_.held + remote_.pulling > 0;
  if (running_count_ == 0 && (open_.size() == 0 || transfers)) return plan_;
  digest_plan(0, 0, plan_.free_blocks);
  open_.push(open_.blank());
  plan_.empty_batch = true;
  ++counters_.empty_batches;
  ++next_step_;
  return plan_;
}

// §1.3. Tokens in flight are delivered while it waits: `placeholders` stay until then.
void VllmV1Scheduler::preempt_speaking(Slot slot) {
  Sequence& s = sequences_[slot];
  const std::int64_t hashed = s.state == State::decoding ? s.speech.hashed : s.computed;
  if (s.state == State::prefilling)
    prefilling_.erase(std::find(prefilling_.begin(), prefilling_.end(), slot));
  release_blocks(slot, s.speech.blocks, hashed / config_.block_size);
  s.speech.blocks = s.speech.hashed = 0;
  s.speech.drafts = 0;
  s.speech.passed_over = false;
  requeue(slot);
}

// As drop_departed(): outcomes in flight find the request gone (take_tokens).
std::int32_t VllmV1Scheduler::drop_speaking(Slot slot) {
  const Sequence& s = sequences_[slot];
  const std::int32_t outputs = s.outputs;
  open_.forget(SequenceId(slot), [](std::int64_t) { return false; });
  if (s.state == State::waiting) {
    refuse_pull(slot);
    std::erase(waiting_, slot);
    std::erase(skipped_, slot);
  } else {
    const std::int64_t hashed = s.state == State::decoding ? s.speech.hashed : s.computed;
    std::erase(prefilling_, slot);
    release_blocks(slot, s.speech.blocks, hashed / config_.block_size);
    unlink_running(slot);
  }
  head_blocked_ = false;
  digest_.add(s.request.value() * 4);
  digest_.add(static_cast<std::int64_t>(outputs));
  drop_slot(slot);
  return outputs;
}

// EAGLE and MTP compute the last block that was found again: the network needs its hidden states (§2.2).
KvBlockManager::Hit VllmV1Scheduler::drop_last(const Sequence& s, KvBlockManager::Hit hit) const {
  if (hit.blocks == 0 || windows_) return hit;  // groups with a window leave it out themselves
  return kv_.lookup(s.kv, hit.blocks * config_.block_size);
}

// ----------------------------------------------------------------------------------------------------
// outcomes

const UpdateEffects& VllmV1Scheduler::take_spoken(const StepOutcome& outcome) {
  ORRERY_CHECK(outcome.updates.size() == 1 && outcome.scheduled == 1, "speculating steps come one by one");
  open_.update(1, 0, effects_, [](const OpenStep&) {});
  ++updated_steps_;
  if (encoder_ != nullptr) {
    encoder_->updated(updated_steps_ - 1, [&](Slot slot) {
      return sequences_[slot].computed - sequences_[slot].speech.placeholders;
    });
  }
  ended_.clear();
  std::int32_t decodes = 0;
  for (const SpokenTokens& said : outcome.spoken) {
    if (!take_tokens(said) || said.first) continue;
    ++decodes;
    // Between a sequence's tokens lie several updates: each gap is its own.
    if (staged()) effects_.irregular.push_back({.sequence = said.sequence, .update = 0, .apart = true});
  }
  if (staged()) effects_.further_tokens += decodes;
  effects_.regular_decodes[0] = decodes - static_cast<std::int32_t>(effects_.irregular.size());
  std::sort(ended_.begin(), ended_.end(),
            [&](Slot a, Slot b) { return sequences_[a].order < sequences_[b].order; });
  for (const Slot slot : ended_) {
    open_.forget_wasted_token(SequenceId(slot));
    finish(slot, sequences_[slot].outputs, 0, 0);
  }
  return effects_;
}

// False when the request ended before: nobody is told (`update_from_output`).
bool VllmV1Scheduler::take_tokens(const SpokenTokens& said) {
  Sequence& s = sequences_[said.sequence.value()];
  if (s.request != said.request) return false;
  Sequence::Speech& speech = s.speech;
  --speech.in_flight;
  const std::int32_t rejected = said.drafts - said.accepted;
  const bool runs = s.state != State::waiting;
  if (runs) s.computed -= rejected;
  const std::int32_t tokens = std::min(said.tokens, s.max_output - s.outputs);  // trimmed at the client's
                                                                                // limit
  s.outputs += tokens;
  if (asynchronous()) speech.placeholders -= said.drafts + 1;
  // `_free_encoder_inputs` runs before the accepted tokens leave the placeholders.
  const std::int64_t in_flight = asynchronous() ? speech.placeholders + 1 + said.accepted : 0;
  if (runs && encoder_ != nullptr) encoder_->passed(said.sequence.value(), s.computed - in_flight);
  if (runs && asynchronous()) {
    speech.hashed = std::max(speech.hashed, std::int64_t{s.prompt} + s.outputs - 1);
  } else if (runs) {
    speech.drafts = said.next_drafts;
  }
  digest_.add((s.request.value() << 8) ^ static_cast<std::uint64_t>(tokens));
  if (!said.first && speculates()) {
    counters_.speculation.count(tokens, said.drafts, said.accepted);
    effects_.said.push_back({said.sequence, tokens});
    effects_.further_tokens += tokens - 1;
    speech.drafts_seen += said.drafts;
    speech.accepted_seen += said.accepted;
  }
  if (said.eos || s.outputs >= s.max_output) ended_.push_back(said.sequence.value());
  return true;
}

}  // namespace orrery
