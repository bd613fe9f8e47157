// Speculative decoding (§8 of ../shared/reference/tensorrt_llm_1_2.md; pyexecutor/py_executor.py
// `_prepare_and_schedule_batch`, resource_manager.py `prepare_resources` and `update_resources`,
// speculative/interface.py and drafter.py of 1.2.0rc): a generation is a row of 1 + k tokens, whatever was
// proposed; blocks are taken for all of them, and those of rejected drafts come back with the update.
//
// A sequence's advance is random, so the sums of a decode set do not hold: each pass walks the active list as
// the engine does, O(active). So it is with pipeline stages, where nobody drafts: who may run depends on what
// is in flight. Without either nothing here runs.
#include <algorithm>

#include "sim/schedulers/tensorrt_llm.h"

namespace orrery {

// Step 9 of the pass before (§1.2): with its row in flight and one token to go a sequence certainly ends.
// (The samplers of speculation never set the engine's count of tokens per iteration, so it stays 1 and the
// test is that; drafts that are accepted end a sequence unforeseen, and its next row is wasted.) Then who
// drafts (drafter.py `should_use_spec_decode`).
void TensorRtLlmScheduler::begin_speaking() {
  for (Slot slot = active_head_; slot != no_slot; slot = sequences_[slot].next) {
    Sequence& s = sequences_[slot];
    if (s.state == State::decoding && s.speech.in_flight > 0 && s.outputs + 1 >= s.max_output)
      s.state = State::to_complete;
  }
  const std::int64_t effective = std::min(
      {std::int64_t{active_count_}, config_.max_num_seqs, config_.max_num_batched_tokens / row_tokens()});
  const std::int64_t most = config_.speculation.max_concurrency;
  drafting_ = most == 0 || (effective > 0 && effective <= most);
}

void TensorRtLlmScheduler::run_speaking(Slot slot) {
  Sequence& s = sequences_[slot];
  const std::int32_t k = config_.speculation.tokens;
  const std::int32_t drafts = !drafting_                   ? 0
                              : config_.speculation.padded ? std::min(s.speech.proposed, k)
                                                           : k;
  verify_.push_back({.sequence = SequenceId(slot), .request = s.request, .drafts = drafts});
  if (s.speech.passed_over) irregular_now_.push_back(SequenceId(slot));
  s.speech.passed_over = false;
}

void TensorRtLlmScheduler::grow_speaking(Sequence& s, std::int64_t blocks) {
  if (blocks <= 0) return;
  kv_.grow_unattributed(blocks);
  s.speech.blocks += blocks;
  if (windowed()) add_to_window(blocks);
}

// §4.1: room for the extra tokens of one-model EAGLE-3 with a prompt, for the row's tokens with a generation.
// What lies behind a request's limit was not reckoned by the capacity scheduler: it is taken out of what
// nobody is owed, and where that is nothing, drafts go without ("no free blocks left" ends the engine's pass
// there).
void TensorRtLlmScheduler::prepare_speaking() {
  const std::int32_t given = drafting_ ? config_.speculation.tokens : 0;
  for (const VerifyWork& row : verify_) {
    Sequence& s = sequences_[row.sequence.value()];
    s.speech.tokens += 1 + given;
    s.speech.given = given;
    if (windowed()) slide_window(s, s.speech.tokens);
    ++s.speech.in_flight;
    const std::int64_t needed = std::min(s.speech.tokens, std::int64_t{s.prompt} + s.max_output);
    grow_speaking(s, blocks_for(needed) - s.speech.blocks);
  }
  const std::int64_t spare_of_window = windowed() ? window_spare() : kv_.num_blocks();
  std::int64_t spare = kv_.free_blocks() - remote_.reserved;
  if (!rules_.max_utilization) {
    for (Slot slot = active_head_; slot != no_slot; slot = sequences_[slot].next) {
      if (is_started(sequences_[slot])) spare -= blocks_to_completion(sequences_[slot]);
    }
  }
  spare = std::min(spare, spare_of_window);
  const auto take_spare = [&](Sequence& s) {
    const std::int64_t more = std::clamp<std::int64_t>(blocks_for(s.speech.tokens) - s.speech.blocks, 0,
                                                       std::max<std::int64_t>(0, spare));
    spare -= more;
    grow_speaking(s, more);
  };
  for (const PrefillWork& chunk : chunks_) {
    Sequence& s = sequences_[chunk.sequence.value()];
    if (s.speech.tokens > 0) continue;  // not its first chunk
    s.speech.tokens = s.target + config_.speculation.lookahead;
    take_spare(s);
  }
  for (const VerifyWork& row : verify_) take_spare(sequences_[row.sequence.value()]);
}

// The prompt is complete with this step: from the next one on the sequence brings a row.
void TensorRtLlmScheduler::start_speaking(Slot slot) {
  Sequence& s = sequences_[slot];
  s.state = State::decoding;
  s.speech.in_flight = 1;
  s.speech.spoke = s.speech.passed_over = false;
}

// §2.3: what is known, but its last token, is stored; what is in flight joins the prompt when it comes.
std::int64_t TensorRtLlmScheduler::pause_speaking(Sequence& s) {
  s.target = std::int64_t{s.prompt} + s.outputs;
  return s.target - 1;
}

// ----------------------------------------------------------------------------------------------- outcomes

const UpdateEffects& TensorRtLlmScheduler::take_spoken(const StepOutcome& outcome) {
  ORRERY_CHECK(outcome.updates.size() == 1 && outcome.scheduled == 1, "speculating steps come one by one");
  stores_.clear();
  open_.update(1, 0, effects_, [&](const Open& open) {
    stores_.insert(stores_.end(), open.stores.begin(), open.stores.end());
  });
  ++updated_steps_;
  spoken_ends_.clear();
  std::int32_t decodes = 0;
  for (const SpokenTokens& said : outcome.spoken) {
    if (!take_tokens(said) || said.first) continue;
    ++decodes;
    // Between a sequence's tokens lie several updates: each gap is its own.
    if (staged()) effects_.irregular.push_back({.sequence = said.sequence, .update = 0, .apart = true});
  }
  if (staged()) effects_.further_tokens += decodes;
  effects_.regular_decodes[0] = decodes - static_cast<std::int32_t>(effects_.irregular.size());
  for (const Slot slot : leaving_) {
    // A first token that is not known yet is waited for, and so is a last one.
    const Sequence& s = sequences_[slot];
    const bool counted = std::find(spoken_ends_.begin(), spoken_ends_.end(), slot) != spoken_ends_.end();
    if (s.state == State::decoding && s.speech.spoke && !counted) spoken_ends_.push_back(slot);
  }
  std::sort(spoken_ends_.begin(), spoken_ends_.end(),
            [&](Slot a, Slot b) { return sequences_[a].order < sequences_[b].order; });
  for (const Slot slot : spoken_ends_) {
    const Sequence& s = sequences_[slot];
    if (s.leg == RequestLeg::prefill && is_generation(s)) {
      hold(slot, s.outputs, 0, s.said_eos);
    } else {
      finish_speaking(slot);
    }
  }
  store_contexts();
  return effects_;
}

// False when the request ended before: nobody is told.
bool TensorRtLlmScheduler::take_tokens(const SpokenTokens& said) {
  Sequence& s = sequences_[said.sequence.value()];
  if (s.request != said.request) return false;
  Sequence::Speech& speech = s.speech;
  --speech.in_flight;
  const std::int32_t tokens = std::min(said.tokens, s.max_output - s.outputs);
  s.outputs += tokens;
  if (s.leg == RequestLeg::prefill) s.said_eos = said.eos;
  speech.proposed = said.next_drafts;
  if (s.state == State::context) {  // paused with this row in flight: its blocks are gone
    s.target = std::int64_t{s.prompt} + s.outputs;
    s.has_key = false;
    s.key_version = 0;
  } else if (said.first) {
    speech.spoke = true;
  } else {
    // A padded row has no other in flight; else the drafts verified are all that it was given.
    rewind(s, (config_.speculation.padded ? speech.given : said.drafts) - said.accepted);
  }
  digest_.add((s.request.value() << 8) ^ static_cast<std::uint64_t>(tokens));
  if (!said.first && speculates()) {
    counters_.speculation.count(tokens, said.drafts, said.accepted);
    effects_.said.push_back({said.sequence, tokens});
    effects_.further_tokens += tokens - 1;
    speech.drafts_seen += said.drafts;
    speech.accepted_seen += said.accepted;
  }
  if (said.eos || s.outputs >= s.max_output) spoken_ends_.push_back(said.sequence.value());
  return true;
}

void TensorRtLlmScheduler::rewind(Sequence& s, std::int64_t tokens) {
  s.speech.tokens -= tokens;
  const std::int64_t back = std::max<std::int64_t>(0, s.speech.blocks - blocks_for(s.speech.tokens));
  kv_.shrink_unattributed(back);
  s.speech.blocks -= back;
  if (window_kv_)
    window_kv_->shrink_unattributed(back);
  else if (windowed())
    window_free_ += back;
}

void TensorRtLlmScheduler::finish_speaking(Slot slot) {
  Sequence& s = sequences_[slot];
  open_.forget_wasted_token(SequenceId(slot));
  if (s.state == State::context) {
    std::erase(contexts_, slot);
  } else {
    const std::int64_t stored = std::int64_t{s.prompt} + s.outputs - 1;
    release_window(s, s.speech.blocks, stored, false);
    kv_.release(s.kv, s.speech.blocks, stored, false);
    --started_;
  }
  unlink_active(slot);
  digest_.add(s.request.value() * 4 + 3);
  digest_.add(static_cast<std::int64_t>(s.outputs));
  effects_.finished.push_back({.sequence = SequenceId(slot),
                               .request = s.request,
                               .output_tokens = s.outputs,
                               .update = 0,
                               .drafts = s.speech.drafts_seen,
                               .accepted = s.speech.accepted_seen});
  drop_slot(slot);
}

}  // namespace orrery
