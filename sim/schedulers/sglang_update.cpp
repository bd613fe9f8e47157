// What results do to the books: tokens, ends, and what becomes of the KV (§1.2, §4; `process_batch_result_*`,
// `checkpoint_into_tree`, `release_kv_cache`).
#include <algorithm>
#include <utility>

#include "sim/schedulers/sglang.h"

namespace orrery {

const UpdateEffects& SglangScheduler::on_outcome(const StepOutcome& outcome) {
  effects_.clear();
  ORRERY_CHECK(static_cast<std::int64_t>(outcome.first.value()) == updated_steps_,
               "outcomes come in step order");
  if (config_.walking()) {
    ORRERY_CHECK(outcome.updates.size() == 1 && outcome.scheduled == 1, "speculating steps come one by one");
    const Launched open = std::move(open_.front());
    open_.pop_front();
    ++updated_steps_;
    if (config_.staged()) enter(ring_.update());
    take_spoken(open, outcome.spoken);
    flush_backups();
    return effects_;
  }
  if (outcome.scheduled > 1) extend_stretch(outcome.scheduled - 1);
  saying_eos_.assign(outcome.eos.begin(), outcome.eos.end());
  for (const SequenceId id : leaving_) {
    if (std::find(saying_eos_.begin(), saying_eos_.end(), id) == saying_eos_.end()) saying_eos_.push_back(id);
  }
  for (std::size_t i = 0; i < outcome.updates.size(); ++i) {
    const Launched open = std::move(open_.front());
    open_.pop_front();
    ++updated_steps_;
    effects_.stalled.push_back(!open.decodes);
    effects_.regular_decodes.push_back(open.regular);
    for (const SequenceId id : open.irregular) effects_.irregular.push_back({.sequence = id, .update = i});
    if (i + 1 == outcome.updates.size()) {
      take_ends(open, i);
    } else {
      take_prefilled(open, i);
    }
  }
  flush_backups();
  return effects_;
}

// The executor ran more steps of the offered stretch: what each of them would have decided.
void SglangScheduler::extend_stretch(std::int64_t extra_steps) {
  const std::int64_t page = config_.cache.page_size;
  const std::int32_t members = decodes_.size();
  std::int64_t free = 0;
  for (std::int64_t i = 0; i < extra_steps; ++i) {
    const std::int64_t need = decode_need();
    cache_.make_room(need);
    ratio_.decay();
    if (page > 1) cache_.make_room(members * page);
    cache_.take(need);
    free = free_tokens() / page;
    digest_.add(std::uint64_t{0});  // nobody was aborted
    digest_plan(members, decodes_.context_sum(decodes_launched_), free);
    ++decodes_launched_;
    Launched open;
    open.regular = members;
    open_.push_back(std::move(open));
  }
  counters_.min_free_blocks = std::min(counters_.min_free_blocks, free);
  next_step_ += extra_steps;
}

// First tokens of prompts. Those that were retracted in the meantime lose theirs.
void SglangScheduler::take_prefilled(const Launched& open, std::size_t update) {
  for (const Entry& entry : open.prefilled) {
    if (!known(entry)) continue;
    const Sequence& s = sequences_[entry.slot];
    effects_.first_tokens.push_back({.sequence = SequenceId(entry.slot),
                                     .request = s.request,
                                     .update = update,
                                     .resumed = s.outputs > 0,
                                     .apart = true});
  }
}

// The batch in its order: who ends gives back its KV at once, who goes on leaves its prompt in the tree.
void SglangScheduler::take_ends(const Launched& open, std::size_t update) {
  take_prefilled(open, update);
  send_parts(open);
  const auto said_eos = [&](Slot slot) {
    return std::find(saying_eos_.begin(), saying_eos_.end(), SequenceId(slot)) != saying_eos_.end();
  };
  done_.clear();
  for (const Entry& entry : open.prefilled) {
    if (known(entry)) done_.emplace_back(sequences_[entry.slot].order, entry.slot);
  }
  const std::size_t prompts = done_.size();
  if (open.decodes) {
    const std::int64_t last = decodes_launched_ - 1 - (decode_in_flight() ? 1 : 0);  // the updated one
    retire_ended(last + 1);
    for (const Slot slot : ending_) {
      const Sequence& s = sequences_[slot];
      if (s.last_decode == last && s.prefill_step != updated_steps_ - 1) done_.emplace_back(s.order, slot);
    }
    for (const SequenceId id : saying_eos_) {
      const Sequence& s = sequences_[id.value()];
      const bool decoding = s.state == State::decoding || (s.state == State::ending && s.last_decode > last);
      if (decoding && s.prefill_step != updated_steps_ - 1) done_.emplace_back(s.order, id.value());
    }
    std::sort(done_.begin() + static_cast<std::ptrdiff_t>(prompts), done_.end());
  }
  for (std::size_t i = 0; i < done_.size(); ++i) {
    const Slot slot = done_[i].second;
    const Sequence& s = sequences_[slot];
    if (i < prompts) {
      const std::int32_t outputs = s.outputs + 1;
      if (config_.role == SglangRole::prefill) {
        hold(slot, update, said_eos(slot));
      } else if (outputs >= s.max_output || said_eos(slot)) {
        finish(slot, outputs, update);
      } else {
        checkpoint(slot, s.extend_end, false);
      }
      continue;
    }
    const std::int64_t ahead = s.last_decode - (decodes_launched_ - 1 - (decode_in_flight() ? 1 : 0));
    finish(slot, s.max_output - static_cast<std::int32_t>(ahead), update);
  }
}

// ------------------------------------------------------------------------------------------------------ ends

void SglangScheduler::finish(Slot slot, std::int32_t outputs, std::size_t update) {
  Sequence& s = sequences_[slot];
  std::int64_t allocated = s.input();
  if (config_.walking()) {
    allocated = s.speech.allocated;
    if (s.running) stop_speaking(slot);
  } else if (s.state == State::decoding || (s.state == State::ending && s.last_decode >= 0)) {
    const bool in_set = s.state == State::decoding;
    const bool late = in_set || config_.rules_of_0_5_17;  // its end was not known when the open step was made
    allocated = late ? s.base + decodes_launched_ : s.base + s.last_decode + 1;
    // An EOS is learned one step late: a row is wasted, and its KV is kept (§1.2, §4).
    const bool wasted = decode_in_flight() && (late || s.last_decode == decodes_launched_ - 1);
    if (wasted) {
      Launched& open = open_.back();
      if (std::erase(open.irregular, SequenceId(slot)) == 0) --open.regular;
    }
    if (in_set) leave_decode_set(slot);
  }
  if (s.state == State::ending && !config_.walking()) {
    std::erase(ending_, slot);
    if (s.running) --ending_running_[s.ignore_eos ? 1 : 0];
  }
  if (s.running) {
    --running_count_;
    if (config_.rules_of_0_5_17) {
      ++dead_rows_;
    } else {
      running_shrank_ = true;
    }
  }
  const std::int64_t written = config_.walking() ? s.speech.committed : allocated;
  release(slot, std::min(written, std::int64_t{s.prompt} + outputs), allocated, true);
  digest_.add(s.request.value() * 4 + 3);
  digest_.add(static_cast<std::int64_t>(outputs));
  effects_.finished.push_back({.sequence = SequenceId(slot),
                               .request = s.request,
                               .output_tokens = outputs,
                               .update = update,
                               .drafts = s.speech.drafts,
                               .accepted = s.speech.accepted});
  drop_slot(slot);
}

// `Scheduler.abort_request`: a waiting request goes at once, a chunked one before the next pass; a running
// one is marked (`to_finish`) and ends when its next token is processed.
std::int32_t SglangScheduler::drop_departed(SequenceId sequence) {
  const Slot slot = sequence.value();
  const Sequence& s = sequences_[slot];
  const bool chunked = slot == chunked_;
  if (s.state == State::receiving) return -1;  // its slots are written to
  const bool retracted = config_.role == SglangRole::decode && s.state == State::waiting;
  if (s.state == State::apart || s.state == State::received || retracted) return drop_apart(slot);
  if (s.state != State::waiting && !chunked) {
    if (std::find(leaving_.begin(), leaving_.end(), sequence) == leaving_.end()) leaving_.push_back(sequence);
    return -1;
  }
  const std::int32_t outputs = s.outputs;
  if (chunked) {
    release(slot, s.extend_end, s.extend_end, true);
    chunked_ = no_slot;
    batch_is_full_ = false;
  } else {
    if (std::erase(turned_away_, slot) == 0)
      waiting_.erase(std::find(waiting_.begin(), waiting_.end(), slot));
  }
  digest_.add(s.request.value() * 4);
  drop_slot(slot);
  return outputs;
}

std::int32_t SglangScheduler::outputs_of(SequenceId sequence) const {
  const Sequence& s = sequences_[sequence.value()];
  const bool decodes = s.state == State::decoding || s.state == State::ending;
  return decodes ? known_outputs(s) : s.outputs;
}

// Leaves the first `up_to` tokens to the tree and moves the lock to where they end.
void SglangScheduler::checkpoint(Slot slot, std::int64_t up_to, bool ends) {
  if (!config_.cache.prefix_sharing) return;
  Sequence& s = sequences_[slot];
  if (cache_.stateful() && !checkpoint_states(s, up_to, ends)) return;
  std::int64_t keys = cache_.stateful() ? std::exchange(s.tracked, 0) : key_length(up_to);
  if (cache_.windowed()) {
    // The first insertion past a place where the other layers' cache goes on ends there, with its window.
    if (s.branch > s.in_tree && s.branch <= keys) keys = s.branch;
    if (keys >= s.branch) s.branch = 0;
    if (!ends) slide(s, keys - 1, 1);
  }
  const std::int64_t kept = cache_.page_floor(keys), prompt = cache_.page_floor(key_length(s.prompt));
  const RadixCache::Node node = cache_.insert(
      s.content, kept,
      {.begin = s.in_tree, .counted = s.inserted, .priority = 0, .window_begin = s.window_begin});
  s.inserted = std::max(s.inserted, kept);
  if (cache_.stateful() && cache_.leave_state(node)) --s.states;
  // Outputs are split off, so that they can be evicted without the prompt, which ranks higher.
  if (prompt > 0 && prompt < kept && !cache_.windowed() && !cache_.stateful())
    cache_.insert(s.content, prompt, {.begin = prompt, .counted = prompt, .priority = 1});
  unlock_prefix(s);
  lock_prefix(s, node);
  s.in_tree = kept;
  if (cache_.stateful() && s.states > config_.states.of_sequence) {
    cache_.give_back_states(1);
    --s.states;
  }
}

// `owned` tokens have KV that the tree may keep, `allocated` were given.
void SglangScheduler::release(Slot slot, std::int64_t owned, std::int64_t allocated, bool keep) {
  Sequence& s = sequences_[slot];
  if (keep) checkpoint(slot, owned, true);
  cache_.give_back(cache_.page_ceil(allocated) - s.in_tree);
  if (cache_.windowed())
    cache_.give_back_windowed(cache_.page_ceil(allocated) - std::max(s.window_begin, s.in_tree));
  if (cache_.stateful()) give_back_states(s);
  unlock_prefix(s);
  s.node = RadixCache::root;
  s.window_begin = s.extends = s.branch = 0;
  s.missed = s.kept = 0;
  s.in_tree = s.inserted = s.prefix = 0;
  --rows_held_;
}

void SglangScheduler::drop_slot(Slot slot) {
  Sequence& s = sequences_[slot];
  if (encoder_ != nullptr) encoder_->close(slot);
  if (!leaving_.empty()) std::erase(leaving_, SequenceId(slot));
  ++s.epoch;
  s.state = State::waiting;
  leave_running(s);
  s.last_decode = -1;
  s.content.clear();
  slots_.give_back(slot);
  --live_;
}

}  // namespace orrery
