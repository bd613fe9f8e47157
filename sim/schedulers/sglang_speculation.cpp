// Speculative decoding (§3, §6; `eagle_utils.eagle_prepare_for_decode`, `mem_cache/allocation_sizing.py`,
// `_resolve_spec_v2_tokens`): EAGLE, EAGLE-3, NEXTN and NGRAM alike. A decode verifies a fixed number of
// drafts, whatever was proposed; an outcome says how many tokens came of it, one step late under the overlap
// loop, which therefore reserves slots for two verifications.
//
// A sequence's advance is random, so the sums of a decode set do not hold: each step walks the running batch
// as the engine does, O(running). So it is with pipeline stages, where nobody drafts: who decodes in a step
// depends on the step's micro-batch. Without either nothing here runs.
#include <algorithm>

#include "sim/schedulers/sglang.h"

namespace orrery {

// A network's cache is keyed by pairs of tokens (`RadixKey.is_bigram`): one fewer than the tokens.
std::int64_t SglangScheduler::key_length(std::int64_t tokens) const {
  return config_.pairs_of_tokens() ? std::max<std::int64_t>(0, tokens - 1) : tokens;
}

void SglangScheduler::start_speaking(Slot slot) {
  Sequence& s = sequences_[slot];
  s.state = s.max_output - (s.outputs + 1) <= 0 ? State::ending : State::decoding;
  const auto place = std::upper_bound(speakers_.begin(), speakers_.end(), slot, [&](Slot a, Slot b) {
    return sequences_[a].order < sequences_[b].order;
  });
  speakers_.insert(place, slot);
  fresh_.push_back(entry_of(slot));
}

void SglangScheduler::stop_speaking(Slot slot) { std::erase(speakers_, slot); }

// §1.2 `_reqs_finishing_inflight`: a result under way brings at least one token, which is the last.
bool SglangScheduler::leave_out_ending_speakers() {
  const auto last_in_flight = [&](Slot slot) {
    const Sequence& s = sequences_[slot];
    return !open_.empty() && s.speech.step == next_step_ - 1 && s.speech.outputs + 1 >= s.max_output;
  };
  bool any = false;
  for (const Slot slot : speakers_) {
    if (!last_in_flight(slot)) continue;
    Sequence& s = sequences_[slot];
    s.state = State::ending;
    leave_running(s);
    --running_count_;
    any = true;
  }
  if (any) std::erase_if(speakers_, [&](Slot slot) { return !sequences_[slot].running; });
  return any;
}

// What the next verification of everybody takes: `_new_tokens_required_next_decode_spec_v2` counts the pages
// that are missing, `page_aligned_decode_alloc_lens` the tokens up to the end of a page.
std::int64_t SglangScheduler::speakers_need(bool in_whole_pages) const {
  const std::int64_t reserve = config_.decode_reserve();
  std::int64_t need = 0;
  for (const Slot slot : speakers_) {
    const Speech& k = sequences_[slot].speech;
    const std::int64_t end = std::max(k.allocated, cache_.page_ceil(k.committed + reserve));
    need += end - (in_whole_pages ? cache_.page_ceil(k.allocated) : k.allocated);
  }
  return need;
}

// Beside prompts the running requests decode plainly, without drafts (`mix_with_running`).
void SglangScheduler::launch_verification(bool mixed) {
  const std::int64_t page = config_.cache.page_size;
  if (cache_.windowed()) slide_speakers();
  const std::int64_t tokens = config_.staged() ? 0 : speakers_need(false);
  if (config_.staged() && page > 1) cache_.make_room(running_count_ * page);
  if (page > 1 && tokens > 0) cache_.make_room(tokens + static_cast<std::int64_t>(speakers_.size()) * page);
  cache_.take(decode_need());
  const std::int32_t drafts = mixed ? 0 : config_.speculation.tokens;
  for (const Slot slot : speakers_) {
    Sequence& s = sequences_[slot];
    Speech& k = s.speech;
    k.allocated = std::max(k.allocated, cache_.page_ceil(k.committed + config_.decode_reserve()));
    k.step = next_step_;
    ++k.verified;
    plan_context_ += k.committed;
    if (mixed && cache_.stateful()) miss_state(s, k.committed + 1);
    verify_.push_back({.sequence = SequenceId(slot),
                       .request = s.request,
                       .drafts = drafts,
                       .padded = !config_.drafting_network() && !config_.staged()});
    launching_.verified.push_back({entry_of(slot), false});
  }
  for (const Entry& entry : fresh_) {
    if (!known(entry) || !sequences_[entry.slot].running) continue;
    launching_.irregular.push_back(SequenceId(entry.slot));
  }
  fresh_.clear();
  for (Launched::Verified& v : launching_.verified) {
    v.irregular = std::find(launching_.irregular.begin(), launching_.irregular.end(),
                            SequenceId(v.entry.slot)) != launching_.irregular.end();
  }
  plan_decodes_ = running_count_;
  plan_drafts_ = std::int64_t{drafts} * running_count_;
  launching_.decodes = true;
  launching_.mixed = mixed;
  ++decodes_launched_;
}

// §2.4 over the running batch.
double SglangScheduler::speakers_offset() const {
  std::array<std::int64_t, 2> left{};
  for (const Slot slot : speakers_) {
    const Sequence& s = sequences_[slot];
    left[s.ignore_eos ? 1 : 0] +=
        std::min<std::int64_t>(s.max_output - s.speech.outputs, config_.clip_max_new_tokens);
  }
  return static_cast<double>(left[0]) * ratio_.now() + static_cast<double>(left[1]);
}

// ------------------------------------------------------------------------------------------ results

// The batch in its order, prompts first. What was said for those that have left it reaches nobody.
void SglangScheduler::take_spoken(const Launched& open, std::span<const SpokenTokens> spoken) {
  ORRERY_CHECK(spoken.size() == open.verified.size() + open.prefilled.size(),
               "everybody in a step says something");
  effects_.stalled.push_back(!open.decodes);
  effects_.regular_decodes.push_back(0);
  take_prefilled(open, 0);
  send_parts(open);
  for (std::size_t i = 0; i < open.prefilled.size(); ++i) {
    const Entry& entry = open.prefilled[i];
    if (!known(entry)) continue;
    const SpokenTokens& said = spoken[open.verified.size() + i];
    if (config_.role == SglangRole::prefill) {
      hold(entry.slot, 0, said.eos);
    } else {
      take_tokens(entry.slot, said, false);
    }
  }
  for (std::size_t i = 0; i < open.verified.size(); ++i) {
    const auto& [entry, irregular] = open.verified[i];
    if (!known(entry)) continue;
    if (config_.staged()) {  // between a sequence's tokens lie several updates: each gap is its own
      effects_.irregular.push_back({.sequence = SequenceId(entry.slot), .update = 0, .apart = true});
      ++effects_.further_tokens;
    } else if (irregular) {
      effects_.irregular.push_back({.sequence = SequenceId(entry.slot), .update = 0});
    } else {
      ++effects_.regular_decodes[0];
    }
    take_tokens(entry.slot, spoken[i], open.mixed);
  }
}

void SglangScheduler::take_tokens(Slot slot, const SpokenTokens& said, bool mixed) {
  Sequence& s = sequences_[slot];
  Speech& k = s.speech;
  const std::int32_t tokens = std::min(said.tokens, s.max_output - k.outputs);
  k.outputs += tokens;
  digest_.add((s.request.value() << 8) ^ static_cast<std::uint64_t>(tokens));
  const bool leaves = std::find(leaving_.begin(), leaving_.end(), said.sequence) != leaving_.end();
  const bool ends = said.eos || k.outputs >= s.max_output || leaves;
  if (said.first) {
    if (!ends) checkpoint(slot, s.extend_end, false);
  } else {
    // The whole accepted run, the client's limit and an EOS inside it notwithstanding. A plain token beside
    // prompts counts only while the request goes on (`process_batch_result_prefill`).
    if (!mixed || !ends || config_.staged()) k.committed += said.accepted + 1;
    if (config_.speculating()) {
      counters_.speculation.count(tokens, said.drafts, said.accepted);
      effects_.said.push_back({said.sequence, tokens});
      effects_.further_tokens += tokens - 1;
    }
    k.drafts += said.drafts;
    k.accepted += said.accepted;
  }
  if (ends) finish(slot, k.outputs, 0);
}

}  // namespace orrery
