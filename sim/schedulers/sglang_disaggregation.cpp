// Prefill and decode apart (`--disaggregation-mode`, 0.5.23: srt/disaggregation/prefill.py, decode.py;
// ../shared/reference/sglang_0_5.md §7).
//
// Both legs of a request run at once. The decode side takes slots for the whole prompt (`pop_preallocated`)
// and says so; only then does the prefill side queue the prompt. Its pass composes prefill batches and
// nothing else; pages leave when the result of their chunk is processed (cached ones when the first chunk is
// launched), the last ones with the first token. It keeps slots and row until all has arrived. The decode
// side then merges the request without computing anything (`prebuilt`): the token is passed on at once, and
// the same pass decodes.
//
// What the engine polls once a pass is known here when a pass begins, and word of room is there at once.
// Chunks that the next launch finds computed leave there at the event of their end, here with their result.
// Buffers for metadata never run short.
#include <algorithm>

#include "sim/schedulers/sglang.h"

namespace orrery {

bool SglangScheduler::awaits_other_side() const {
  if (config_.role == SglangRole::prefill) return remote_.held > 0 || !remote_.queue.empty();
  return remote_.receiving > 0;
}

std::span<const PullWork> SglangScheduler::take_pulls() {
  remote_.pulled.swap(remote_.pulls);
  remote_.pulls.clear();
  return remote_.pulled;
}

std::span<const SendWork> SglangScheduler::take_sends() {
  remote_.sent.swap(remote_.sends);
  remote_.sends.clear();
  return remote_.sent;
}

bool SglangScheduler::on_room(SequenceId sequence) {
  sequences_[sequence.value()].room = true;
  remote_.rooms = true;
  return true;
}

bool SglangScheduler::on_remote_end(SequenceId sequence, bool said_eos) {
  sequences_[sequence.value()].said_eos = said_eos;
  remote_.ended.push_back({sequence.value(), false});
  return true;
}

bool SglangScheduler::on_remote_failure(SequenceId sequence) {
  remote_.ended.push_back({sequence.value(), true});
  return true;
}

// `process_disagg_prefill_inflight_queue`, `pop_transferred`. Who has received joins in the order of queues.
void SglangScheduler::notice_ended() {
  std::vector<Slot> received;
  for (const Remote::Ended& end : remote_.ended) {
    Sequence& s = sequences_[end.slot];
    if (s.state == State::held) {
      release(end.slot, s.extend_end, s.extend_end, true);
      --remote_.held;
      digest_.add(s.request.value() * 4);
      drop_slot(end.slot);
      continue;
    }
    --remote_.receiving;
    if (end.failed) {
      lose(end.slot);
      continue;
    }
    s.state = State::received;
    received.push_back(end.slot);
  }
  remote_.ended.clear();
  std::sort(received.begin(), received.end(),
            [&](Slot a, Slot b) { return sequences_[a].queued < sequences_[b].queued; });
  remote_.received.insert(remote_.received.end(), received.begin(), received.end());
}

// ------------------------------------------------------------------------------------------------ prefill

// `get_next_disagg_prefill_batch_to_run`: nothing ever runs, so that nothing is merged and no latch holds.
void SglangScheduler::begin_prefill_pass() {
  if (!remote_.ended.empty()) notice_ended();
  if (remote_.rooms) pop_bootstrapped();
  stash_chunk();
  last_batch_.clear();
  last_batch_had_chunk_ = batch_is_full_ = false;
}

void SglangScheduler::pop_bootstrapped() {
  std::deque<Slot> left;
  for (const Slot slot : remote_.queue) {
    Sequence& s = sequences_[slot];
    if (!s.room) {
      left.push_back(slot);
      continue;
    }
    s.state = State::waiting;
    enqueue(slot);
  }
  remote_.queue = std::move(left);
  remote_.rooms = false;
}

// `send_kv_chunk`: whole pages, but for the last ones.
void SglangScheduler::send_up_to(Slot slot, std::int64_t tokens, bool last) {
  const Sequence& s = sequences_[slot];
  const std::int64_t page = config_.cache.page_size, of = cache_.page_ceil(s.prompt) / page;
  const std::int64_t parts = last ? of : std::min(tokens / page, of - 1);
  if (parts > 0)
    remote_.sends.push_back(
        {.request = s.request, .sequence = SequenceId(slot), .step = {}, .parts = parts, .of = of});
}

// `maybe_send_cached_prefix_chunk`: what a prompt found is on its way before its batch runs; not beside a
// copy from host memory, which may still write pages that somebody in the batch found (`load_pending`).
void SglangScheduler::send_cached(const Adder& adder) {
  if (plan_loads_ > 0) return;
  for (const Slot slot : adder.batch) {
    const Sequence& s = sequences_[slot];
    const bool begins = s.state == State::waiting;
    if (begins && s.prefix > 0) send_up_to(slot, s.prefix, false);
  }
}

// Chunks that ended in a step whose result is processed. Of pipeline stages each sends its own layers' part;
// the earlier ones could begin up to pp − 1 stages sooner with all but the last chunk.
void SglangScheduler::send_parts(const Launched& open) {
  for (const auto& [entry, end] : open.parts)
    if (known(entry)) send_up_to(entry.slot, end, false);
}

// Its prompt is computed, and its first token known.
void SglangScheduler::hold(Slot slot, std::size_t update, bool said_eos) {
  Sequence& s = sequences_[slot];
  checkpoint(slot, s.extend_end, false);
  s.state = State::held;
  ++remote_.held;
  std::erase(leaving_, SequenceId(slot));
  send_up_to(slot, s.prompt, true);
  digest_.add(s.request.value() * 4 + 3);
  digest_.add(std::int64_t{1});
  effects_.finished.push_back({.sequence = SequenceId(slot),
                               .request = s.request,
                               .output_tokens = 1,
                               .update = update,
                               .held = true,
                               .said_eos = said_eos});
}

// ------------------------------------------------------------------------------------------------- decode

// `process_decode_queue` and `get_next_disagg_decode_batch_to_run`.
SglangScheduler::Kind SglangScheduler::run_decode_pass() {
  resume_retracted();
  // process_decode_queue, polling_count, by passes that launched something; where nothing runs the others are
  // over at once.
  const bool idle = batch_rows() == 0 && open_.empty();
  if (remote_.retracted.empty() && (next_step_ % config_.polling_interval == 0 || idle)) {
    preallocate();
    if (!remote_.ended.empty()) notice_ended();
  }
  emptied_ = false;
  merge_received();
  running_shrank_ = false;
  retire_ended(decodes_launched_);
  if (batch_rows() == 0) return Kind::none;
  emptied_ = false;
  return decode();
}

// `_allocatable_token_budgets`: what is free beside the tokens kept for everybody, or beside `least`.
std::int64_t SglangScheduler::allocatable(std::int64_t least) const {
  const std::int64_t active =
      running_count_ + remote_.receiving + static_cast<std::int64_t>(remote_.received.size());
  return free_tokens() - std::max(config_.num_reserved_decode_tokens * active, least);
}

// Tokens that the running batch holds as far as its results are known: what retracting all of it would bring.
// (`pop_preallocated` sums over the batch.) A decoding one holds its input and a token for each decode step
// since it joined, but for the one in flight; one that ends, all but its last.
std::int64_t SglangScheduler::retractable() const {
  std::int64_t sum = 0;
  if (config_.walking()) {
    for (const Slot slot : speakers_) sum += sequences_[slot].prompt + known_outputs(sequences_[slot]);
    return sum;
  }
  sum = decodes_.context_sum(decodes_launched_) + decodes_.size();
  if (decode_in_flight()) {
    sum -= decodes_.size();
    for (const Entry& entry : fresh_)  // which take part in no step yet
      if (known(entry) && sequences_[entry.slot].state == State::decoding) ++sum;
  }
  for (const Slot slot : ending_)
    if (sequences_[slot].running) sum += sequences_[slot].prompt + known_outputs(sequences_[slot]);
  return sum;
}

// As the engine counts.
bool SglangScheduler::same_by_walking(std::int64_t held, std::int64_t longest) const {
  for (const Sequence& s : sequences_)
    if (s.running) held -= s.prompt + known_outputs(s);
  const auto longer = [&](const Sequence& s) { return s.running && longest_of(s) > longest; };
  return held == 0 && std::none_of(sequences_.begin(), sequences_.end(), longer);
}

// First come, first served, or by priority (`pop_preallocated` sorts); who does not fit holds up those
// behind.
void SglangScheduler::preallocate() {
  if (remote_.queue.empty()) return;
  if (config_.enable_priority_scheduling) {
    std::stable_sort(remote_.queue.begin(), remote_.queue.end(),
                     [&](Slot a, Slot b) { return sequences_[a].priority < sequences_[b].priority; });
  }
  const std::int64_t held = retractable();
  std::int64_t longest = 0;
  if (config_.walking()) {  // of stages: those of the micro-batch that the loop is at (`running_batch`)
    for (const Slot slot : speakers_) longest = std::max(longest, longest_of(sequences_[slot]));
  } else {
    longest = remote_.lengths.largest();
    ORRERY_DCHECK(same_by_walking(held, longest), "what the running batch holds, summed up");
  }
  const std::int64_t single = running_count_ > 0 ? longest - held : 0;
  while (!remote_.queue.empty() && rows_held_ < config_.rows()) {
    const Slot slot = remote_.queue.front();
    Sequence& s = sequences_[slot];
    if (config_.cache.prefix_sharing) find_received(s);
    const std::int64_t slots = cache_.page_ceil(s.prompt) - s.prefix;
    const std::int64_t needed =
        std::max(slots + config_.num_reserved_decode_tokens, longest_of(s) - s.prefix - held);
    if (needed > allocatable(single)) {
      unlock_prefix(s);
      return;
    }
    remote_.queue.pop_front();
    cache_.make_room(slots);
    cache_.take(slots);
    ++rows_held_;
    ++remote_.receiving;
    s.state = State::receiving;
    s.queued = next_queued_++;
    s.extend_end = s.prompt;
    remote_.pulls.push_back({.request = s.request,
                             .sequence = SequenceId(slot),
                             .blocks = slots / config_.cache.page_size,
                             .skipped = s.prefix / config_.cache.page_size});
    counters_.queried_tokens += static_cast<std::uint64_t>(s.prompt);
    counters_.hit_tokens += static_cast<std::uint64_t>(s.prefix);
    digest_.add(s.request.value() * 4);
    digest_.add(slots);
  }
}

// The decode side's radix cache (`_match_prefix_and_lock`): what it has of a prompt is locked, and is not
// sent
// (`decode_prefix_len`).
void SglangScheduler::find_received(Sequence& s) {
  const RadixCache::Match hit = cache_.match(s.content, key_length(s.prompt));
  s.prefix = s.in_tree = hit.tokens;
  lock_prefix(s, hit.node);
}

// `resume_retracted_reqs`: back from host memory, without the token whose KV was never written.
void SglangScheduler::resume_retracted() {
  while (!remote_.retracted.empty() && rows_held_ < config_.rows()) {
    const Slot slot = remote_.retracted.front();
    Sequence& s = sequences_[slot];
    const std::int64_t tokens = s.prompt + std::max(s.outputs - 1, 0);
    if (cache_.page_ceil(tokens) + config_.num_reserved_decode_tokens > allocatable(0)) return;
    remote_.retracted.pop_front();
    cache_.make_room(cache_.page_ceil(tokens));
    cache_.take(cache_.page_ceil(tokens));
    ++rows_held_;
    remote_.onboarded += cache_.page_ceil(tokens) / config_.cache.page_size;
    s.outputs = static_cast<std::int32_t>(tokens - s.prompt);  // the last one is known, as a first token is
    s.state = State::received;
    remote_.received.push_back(slot);
    digest_.add(s.request.value() * 4 + 2);
    digest_.add(tokens);
  }
}

// `get_new_prebuilt_batch`; with priorities `calc_priority` orders who waits for a place.
void SglangScheduler::merge_received() {
  if (config_.enable_priority_scheduling && remote_.received.size() > 1) {
    const bool longest_first = config_.schedule_policy == QueuePolicy::lof;
    std::stable_sort(remote_.received.begin(), remote_.received.end(), [&](Slot a, Slot b) {
      const Sequence &x = sequences_[a], &y = sequences_[b];
      if (x.priority != y.priority || !longest_first) return x.priority < y.priority;
      return x.max_output > y.max_output;
    });
  }
  while (!remote_.received.empty() && running_count_ < config_.max_running_requests) {
    const Slot slot = remote_.received.front();
    remote_.received.pop_front();
    Sequence& s = sequences_[slot];
    const bool fresh = !s.admitted, ends = fresh && (s.max_output == 1 || s.said_eos);
    s.admitted = true;
    if (fresh)
      remote_.handed.push_back(
          {.sequence = SequenceId(slot), .request = s.request, .tokens = s.prompt, .ends = ends});
    digest_.add(s.request.value() * 4 + 3);
    digest_.add(std::int64_t{s.outputs});
    checkpoint(slot, s.input(), false);  // `process_prebuilt`
    if (ends) {
      release(slot, s.prompt, s.prompt, true);
      drop_slot(slot);
      emptied_ = true;  // what it gave back may let others in
      continue;
    }
    s.order = next_order_++;
    s.prefill_step = -2;  // no step of this engine
    remote_.joined.push_back({.sequence = SequenceId(slot),
                              .request = s.request,
                              .context = s.input(),
                              .outputs_before = s.outputs + 1});
    if (config_.walking()) {
      s.speech.outputs = s.outputs + 1;
      s.speech.committed = s.speech.allocated = s.input();
      s.speech.step = -2;
    }
    merge(slot);
  }
}

// --------------------------------------------------------------------------------------------------- ends

// `_abort_failed_transfer`: the answer is an error.
void SglangScheduler::lose(Slot slot) {
  Sequence& s = sequences_[slot];
  release(slot, s.prompt, s.prompt, false);
  digest_.add(s.request.value() * 4 + 1);
  aborted_.push_back(SequenceId(slot));
  drop_slot(slot);
}

// The client of a request that waits for the other side, or for a place in the batch, is gone.
std::int32_t SglangScheduler::drop_apart(Slot slot) {
  Sequence& s = sequences_[slot];
  const std::int32_t outputs = s.state == State::received && s.admitted ? s.outputs + 1 : s.outputs;
  if (s.state == State::received) {
    std::erase(remote_.received, slot);
    release(slot, s.input(), s.input(), false);
  } else if (s.state == State::waiting) {
    std::erase(remote_.retracted, slot);
  } else {
    std::erase(remote_.queue, slot);
    if (config_.role == SglangRole::decode)
      remote_.pulls.push_back({.request = s.request, .sequence = SequenceId::none(), .blocks = 0});
  }
  digest_.add(s.request.value() * 4);
  drop_slot(slot);
  return outputs;
}

}  // namespace orrery
