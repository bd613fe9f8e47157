// What outcomes do to the scheduler's books, in the order of a pass's steps 7 to 10 (§1.2 of
// ../shared/reference/tensorrt_llm_1_2.md): tokens delivered, ends, blocks given back, contexts stored.
#include <algorithm>

#include "sim/schedulers/tensorrt_llm.h"

namespace orrery {

const UpdateEffects& TensorRtLlmScheduler::on_outcome(const StepOutcome& outcome) {
  effects_.clear();
  ORRERY_CHECK(static_cast<std::int64_t>(outcome.first.value()) == updated_steps_,
               "outcomes come in step order");
  if (staged()) ring_.update();
  if (walks()) return take_spoken(outcome);
  if (outcome.scheduled > 1) extend_stretch(outcome.scheduled - 1);
  const std::size_t updates = outcome.updates.size();
  stores_.clear();
  open_.update(updates, decodes_.size(), effects_, [&](const Open& open) {
    stores_.insert(stores_.end(), open.stores.begin(), open.stores.end());
  });
  updated_steps_ += static_cast<std::int64_t>(updates);
  open_.fill_up(next_step_ - updated_steps_, decodes_.size());
  const std::int64_t last = updated_steps_ - 1;
  finish_ended(outcome, last, updates - 1);
  store_contexts();
  return effects_;
}

// The executor ran more steps of the offered stretch: account for what each of them would have decided.
void TensorRtLlmScheduler::extend_stretch(std::int64_t extra_steps) {
  std::int64_t free = kv_.free_blocks();
  const std::int64_t members = decodes_.size();
  const std::int64_t blocks =
      decodes_.walk(next_step_, extra_steps, [&](std::int64_t context, std::int64_t fresh) {
        free -= fresh;
        digest_plan(members, context, free);
      });
  kv_.grow_unattributed(blocks);
  owed_ -= blocks;
  counters_.min_free_blocks = std::min(counters_.min_free_blocks, free);
  next_step_ += extra_steps;
}

// Sequences whose last token this update brought, by an EOS or by their limit, in list order, as responses
// are handled: the order in which blocks go back.
void TensorRtLlmScheduler::finish_ended(const StepOutcome& outcome, std::int64_t step, std::size_t update) {
  retire_ended(step + 1);
  ended_.clear();
  for (const SequenceId id : outcome.eos) ended_.push_back({sequences_[id.value()].order, id.value(), true});
  for (const Slot slot : to_complete_) {
    const Sequence& s = sequences_[slot];
    const bool said_eos =
        std::find(outcome.eos.begin(), outcome.eos.end(), SequenceId(slot)) != outcome.eos.end();
    if (s.last_step <= step && !said_eos) ended_.push_back({s.order, slot, false});
  }
  for (const Slot slot : leaving_) {
    // A first token that is not known yet is waited for.
    const Sequence& s = sequences_[slot];
    const bool running =
        s.state == State::passed || (s.state == State::decoding && s.target - s.base <= step + 1);
    const bool counted =
        std::any_of(ended_.begin(), ended_.end(), [&](const Ended& e) { return e.slot == slot; });
    if (running && !counted) ended_.push_back({s.order, slot, true});
  }
  std::sort(ended_.begin(), ended_.end(), [](const Ended& a, const Ended& b) { return a.order < b.order; });
  for (const Ended& ended : ended_) {
    const Sequence& s = sequences_[ended.slot];
    if (s.leg == RequestLeg::prefill && s.state == State::to_complete)
      hold(ended.slot, 1, update, ended.by_eos);
    else if (ended.by_eos)
      finish_early(ended.slot, step, update);
    else
      finish(ended.slot, s.max_output, s.prompt + s.max_output - 1, update);
  }
}

// §1.2: an EOS is learned one pass late, so that a row with a token for nobody may already be under way.
void TensorRtLlmScheduler::finish_early(Slot slot, std::int64_t step, std::size_t update) {
  const Sequence& s = sequences_[slot];
  std::int32_t outputs = s.outputs;
  std::int64_t computed = s.computed;
  if (s.state == State::decoding) {
    const std::int64_t wasted = next_step_ - 1 - step;
    outputs = s.max_output - static_cast<std::int32_t>(s.last_step - step);
    computed = s.base + next_step_;
    if (wasted > 0) open_.forget_wasted_token(SequenceId(slot));
  } else if (s.state == State::to_complete) {
    // The limit came right behind the EOS: its last planned token is the wasted one.
    const std::int64_t wasted = s.last_step - step;
    outputs = s.max_output - static_cast<std::int32_t>(wasted);
    if (wasted > 0) open_.forget_wasted_token(SequenceId(slot));
  }
  finish(slot, outputs, computed, update);
}

// `_handle_canceled_requests`: with the results of the step under way, before their responses. What was not
// begun goes at once. A prompt under way runs to its first token here; the engine drops it a step later at
// the latest.
std::int32_t TensorRtLlmScheduler::drop_departed(SequenceId sequence) {
  const Slot slot = sequence.value();
  const Sequence& s = sequences_[slot];
  if (s.state == State::receiving) return -1;  // its blocks are written to
  const bool wants_nothing = s.leg == RequestLeg::decode;
  if (wants_nothing && (s.state == State::queued || s.state == State::init))
    remote_.pulls.push_back({.request = s.request, .sequence = SequenceId::none(), .blocks = 0});
  if (s.state == State::init) {
    std::erase(remote_.inits, slot);
    digest_.add(s.request.value() * 4);
    leave_active(slot);
    return 0;
  }
  const bool idle_context = s.state == State::context && (!s.admitted || updated_steps_ >= s.paused_at);
  if (s.state != State::queued && !idle_context) {
    if (std::find(leaving_.begin(), leaving_.end(), slot) == leaving_.end()) leaving_.push_back(slot);
    return -1;
  }
  const std::int32_t outputs = s.outputs;
  if (idle_context) {
    std::erase(contexts_, slot);
    unlink_active(slot);
  } else {
    queue_.erase(std::find(queue_.begin(), queue_.end(), slot));
  }
  digest_.add(s.request.value() * 4);
  drop_slot(slot);
  return outputs;
}

std::int32_t TensorRtLlmScheduler::outputs_of(SequenceId sequence) const {
  const Sequence& s = sequences_[sequence.value()];
  if (walks() || (s.state != State::decoding && s.state != State::to_complete)) return s.outputs;
  return s.max_output -
         static_cast<std::int32_t>(std::max<std::int64_t>(0, s.last_step - updated_steps_ + 1));
}

void TensorRtLlmScheduler::finish(Slot slot, std::int32_t outputs, std::int64_t computed,
                                  std::size_t update) {
  const Sequence& s = sequences_[slot];
  if (s.state == State::context) {  // paused with its last token in flight: its blocks are gone already
    std::erase(contexts_, slot);
    std::erase(to_complete_, slot);
  } else {
    const std::int64_t held = blocks_for(computed);
    if (s.state == State::decoding) decodes_.remove(s.base);
    if (s.state == State::passed) std::erase(passed_, slot);
    if (s.state == State::to_complete) std::erase(to_complete_, slot);
    owed_ -= reserve_of(s) - held;
    release_window(sequences_[slot], held, s.prompt + outputs - 1, false);
    kv_.release(s.kv, held, s.prompt + outputs - 1, false);  // §4.3: all tokens but the last
    --started_;
  }
  unlink_active(slot);
  digest_.add(s.request.value() * 4 + 3);
  digest_.add(static_cast<std::int64_t>(outputs));
  effects_.finished.push_back(
      {.sequence = SequenceId(slot), .request = s.request, .output_tokens = outputs, .update = update});
  drop_slot(slot);
}

// §4.3, step 10 of the pass: behind the ends, so that a request that ended with its context was stored by
// that.
void TensorRtLlmScheduler::store_contexts() {
  for (const Store& store : stores_) {
    const Sequence& s = sequences_[store.slot];
    if (s.stay == store.stay) kv_.store(s.kv, store.tokens);
  }
}

}  // namespace orrery
