// Prefill and decode apart: context and generation servers of 1.2 (PyExecutor; ../shared/reference/
// tensorrt_llm_1_2.md §7, whose sources were read in parts of different releases).
//
// The orchestrator is context-first: the prefill leg is answered with its first token, then the decode leg is
// sent. A context server keeps the blocks of what it has answered until their transfer is reported, which it
// asks for only in passes that send something, or when nothing fits; idle it sleeps in its queue, and here
// gives them back at once, which nobody can tell. A generation server takes a request in when its prompt and
// all its outputs fit beside what the others are owed, allocates the prompt's blocks, and fetches. The token
// that comes with them is passed on before the step that already decodes.
//
// Blocks that requests under way will need are kept free for them; the engine reckons with those of running
// ones only, and may fail.
#include <algorithm>

#include "sim/schedulers/tensorrt_llm.h"

namespace orrery {

std::span<const PullWork> TensorRtLlmScheduler::take_pulls() {
  remote_.pulled.swap(remote_.pulls);
  remote_.pulls.clear();
  return remote_.pulled;
}

bool TensorRtLlmScheduler::on_remote_end(SequenceId sequence, bool said_eos) {
  sequences_[sequence.value()].said_eos = said_eos;
  remote_.ended.push_back({sequence.value(), false});
  return true;
}

bool TensorRtLlmScheduler::on_remote_failure(SequenceId sequence) {
  remote_.ended.push_back({sequence.value(), true});
  return true;
}

bool TensorRtLlmScheduler::only_transfers() const {
  const auto apart = static_cast<std::int32_t>(remote_.inits.size()) + remote_.receiving;
  return queue_.empty() && active_count_ == apart;
}

bool TensorRtLlmScheduler::waits_for_transfer() const {
  if (!queue_.empty() || active_count_ == 0 || active_count_ != remote_.receiving) return false;
  return std::none_of(remote_.ended.begin(), remote_.ended.end(), [&](const Remote::Ended& end) {
    return sequences_[end.slot].state == State::receiving;
  });
}

void TensorRtLlmScheduler::begin_remote_pass() {
  if (!remote_.ended.empty()) {
    take_received();
    if (remote_.polls || active_count_ == 0) notice_sent();
  }
  remote_.polls = false;
  if (!remote_.inits.empty()) admit_inits();
}

// ------------------------------------------------------------------------------------------------ prefill

// Its first token is known: the blocks are stored and pinned, and the request leaves (§7.4).
void TensorRtLlmScheduler::hold(Slot slot, std::int32_t outputs, std::size_t update, bool said_eos) {
  Sequence& s = sequences_[slot];
  std::erase(to_complete_, slot);
  if (!walks()) owed_ -= unfilled(s);
  kv_.store(s.kv, s.prompt);
  --started_;
  unlink_active(slot);
  s.state = State::held;
  ++remote_.held;
  remote_.polls = true;
  if (!leaving_.empty()) std::erase(leaving_, slot);
  digest_.add(s.request.value() * 4 + 3);
  digest_.add(static_cast<std::int64_t>(outputs));
  effects_.finished.push_back({.sequence = SequenceId(slot),
                               .request = s.request,
                               .output_tokens = outputs,
                               .update = update,
                               .held = true,
                               .said_eos = said_eos});
}

void TensorRtLlmScheduler::notice_sent() {
  std::erase_if(remote_.ended, [&](const Remote::Ended& end) {
    Sequence& s = sequences_[end.slot];
    if (s.state != State::held) return false;
    const std::int64_t held = walks() ? s.speech.blocks : blocks_for(s.prompt);
    kv_.release(s.kv, held, s.prompt, false);
    release_window(s, held, s.prompt, false);
    --remote_.held;
    digest_.add(s.request.value() * 4);
    drop_slot(end.slot);
    return true;
  });
}

// ------------------------------------------------------------------------------------------------- decode

// §2.2: behind generations, before contexts, in order while prompt and outputs fit; the first misfit stops.
void TensorRtLlmScheduler::admit_inits() {
  std::size_t admitted = 0;
  std::int64_t window = window_free_blocks();
  for (Slot slot = active_head_; windowed() && slot != no_slot; slot = sequences_[slot].next) {
    const Sequence& s = sequences_[slot];
    if (is_generation(s) || s.state == State::receiving) window -= window_to_completion(s);
  }
  for (const Slot slot : remote_.inits) {
    Sequence& s = sequences_[slot];
    if (reserve_of(s) > kv_.free_blocks() - owed()) break;
    const std::int64_t of_window = windowed() ? window_to_completion(s) : 0;
    if (of_window > window) break;
    window -= of_window;
    ++admitted;
    const std::int64_t hit = take_window(s, s.prompt, kv_.add_sequence(s.kv, s.prompt));
    counters_.queried_tokens += static_cast<std::uint64_t>(s.prompt);
    counters_.hit_tokens += static_cast<std::uint64_t>(hit);
    owed_ += unfilled(s);
    remote_.reserved += unfilled(s);
    ++remote_.receiving;
    s.state = State::receiving;
    const std::int64_t blocks = blocks_for(s.prompt);
    std::int64_t sent = blocks;
    if (windowed()) {  // `getBlockRangeForSending`, cacheFormatter.cpp: of a window its last blocks
      sent = blocks * rules_.full_parts +
             std::min(blocks, rules_.window / config_.block_size + 1) * rules_.window_parts;
    }
    remote_.pulls.push_back({.request = s.request, .sequence = SequenceId(slot), .blocks = sent});
    digest_.add(s.request.value() * 4);
    digest_.add(sent);
  }
  remote_.inits.erase(remote_.inits.begin(), remote_.inits.begin() + static_cast<std::ptrdiff_t>(admitted));
}

// What generations, and those that receive, may still take. With speculation nobody adds it up on the way.
std::int64_t TensorRtLlmScheduler::owed() const {
  std::int64_t blocks = owed_;
  for (Slot slot = active_head_; walks() && slot != no_slot; slot = sequences_[slot].next)
    if (is_generation(sequences_[slot])) blocks += blocks_to_completion(sequences_[slot]);
  return blocks;
}

// In list order, as a pass looks at its requests.
void TensorRtLlmScheduler::take_received() {
  std::vector<Remote::Ended> received;
  std::erase_if(remote_.ended, [&](const Remote::Ended& end) {
    if (sequences_[end.slot].state != State::receiving) return false;
    received.push_back(end);
    return true;
  });
  std::sort(received.begin(), received.end(), [&](const Remote::Ended& a, const Remote::Ended& b) {
    return sequences_[a.slot].order < sequences_[b.slot].order;
  });
  for (const Remote::Ended& end : received) {
    --remote_.receiving;
    remote_.reserved -= unfilled(sequences_[end.slot]);
    end.failed ? lose(end.slot) : join(end.slot);
  }
}

void TensorRtLlmScheduler::join(Slot slot) {
  Sequence& s = sequences_[slot];
  const bool ends = s.max_output == 1 || s.said_eos;
  remote_.handed.push_back(
      {.sequence = SequenceId(slot), .request = s.request, .tokens = s.prompt, .ends = ends});
  digest_.add(s.request.value() * 4 + 3);
  digest_.add(std::int64_t{s.prompt});
  if (ends) {
    owed_ -= unfilled(s);
    release_window(s, blocks_for(s.prompt), s.prompt, false);
    kv_.release(s.kv, blocks_for(s.prompt), s.prompt, false);
    return leave_active(slot);
  }
  s.leg = RequestLeg::whole;  // from now on it is like any other
  s.admitted = true;
  s.outputs = 1;
  ++started_;
  highest_started_ = std::max(highest_started_, s.order);
  remote_.joined.push_back(
      {.sequence = SequenceId(slot), .request = s.request, .context = s.prompt, .outputs_before = 1});
  if (walks()) {  // drafts of the context come too (§7.5): its first row is like any other's
    owed_ -= unfilled(s);
    s.state = State::decoding;
    s.speech = {.tokens = s.prompt + config_.speculation.lookahead, .blocks = blocks_for(s.prompt)};
    s.speech.spoke = s.speech.passed_over = true;  // its next gap is its own
    return;
  }
  irregular_now_.push_back(SequenceId(slot));
  enter_decode_set(slot, next_step_, s.prompt);
}

// §7.8: an error; nothing is computed again.
void TensorRtLlmScheduler::lose(Slot slot) {
  Sequence& s = sequences_[slot];
  owed_ -= unfilled(s);
  release_window(s, blocks_for(s.prompt), 0, false);
  kv_.release(s.kv, blocks_for(s.prompt), 0, false);
  digest_.add(s.request.value() * 4 + 1);
  remote_.aborted.push_back(SequenceId(slot));
  leave_active(slot);
}

}  // namespace orrery
