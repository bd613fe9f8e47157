// Composing a prefill batch (§2; `Scheduler._get_new_batch_prefill_raw`, `PrefillAdder`, `PrefillBudget`).
#include <algorithm>
#include <utility>

#include "sim/schedulers/sglang.h"

namespace orrery {

SglangScheduler::Kind SglangScheduler::prefill() {
  Adder adder = opened_ ? resume_attempt() : begin_attempt();
  const Kind kind = attempt(adder);
  end_attempt(adder, kind);
  return kind;
}

// §2.1, in this order.
SglangScheduler::Adder SglangScheduler::begin_attempt() {
  Adder none;
  none.little_used = little_used();
  if (batch_rows() == 0 || config_.preempts() || cache_.windowed()) batch_is_full_ = false;
  if ((batch_is_full_ || waiting_.empty()) && chunked_ == no_slot) return none;
  if (waits_for_free_slots()) return none;
  const std::int64_t rows = config_.max_running_requests;
  if (std::min(most_rows() - batch_rows(), rows - rows_held_) <= 0 && chunked_ == no_slot &&
      !config_.preempts()) {
    batch_is_full_ = true;
    return none;
  }
  order_queue();
  Adder adder = make_adder();
  adder.tries = true;
  adder.little_used = none.little_used;
  return adder;
}

SglangScheduler::Kind SglangScheduler::attempt(Adder& adder) {
  if (adder.tries) {
    if (chunked_ != no_slot) continue_chunk(adder);
    admit_from_queue(adder);
  }
  for (const Displaced& d : displaced_) {
    if (enqueue(d.slot)) note_preemption(d.slot, d.by);
  }
  displaced_.clear();
  if (adder.batch.empty()) return Kind::none;
  if (!allocate_batch(adder)) {
    out_of_memory_ = true;
    return Kind::none;
  }
  if (adder.new_chunked != no_slot) chunked_ = adder.new_chunked;
  launch_batch(adder);
  const bool mixes = config_.enable_mixed_chunk && config_.chunking() && batch_rows() > 0;
  const Kind kind = mixes ? mix_with_running() : Kind::extend;
  prefilled_tokens_ += plan_prefill_tokens_ + plan_decodes_;
  return kind;
}

// ----------------------------------------------------------------------------------------------------
// budgets

SglangScheduler::Adder SglangScheduler::make_adder() {
  const std::int64_t mixed = config_.enable_mixed_chunk && config_.chunking() ? batch_rows() : 0;
  Adder adder;
  adder.rem_input = config_.max_prefill_tokens - mixed;
  adder.rem_chunk = config_.chunked_prefill_size - mixed;
  adder.current_offset = mixed;
  adder.total_offset = static_cast<double>(mixed) + running_offset();
  return adder;
}

// §2.4: what the running requests may still write, at the ratio, or in full for fixed lengths. Tokens in
// flight are not known yet. The engine adds rounded products where this multiplies a sum: the two differ by
// less than 10⁻⁹ tokens.
double SglangScheduler::running_offset() {
  if (config_.walking()) return speakers_offset();
  const std::int64_t known_decodes = decodes_known();
  std::array<std::int64_t, 2> left{reserves_[0].sum(known_decodes), reserves_[1].sum(known_decodes)};
  const std::int64_t clip = config_.clip_max_new_tokens;
  for (std::size_t i = 0; i < 2; ++i) left[i] += ending_running_[i] * std::min<std::int64_t>(1, clip);
  if (!decode_in_flight() && !open_.empty()) {
    for (const Entry& entry : fresh_) {  // whose first token is in flight
      const Sequence& s = sequences_[entry.slot];
      if (!known(entry) || s.state != State::decoding || s.prefill_step != next_step_ - 1) continue;
      const std::int64_t rest = s.last_decode - known_decodes + 1;
      left[s.ignore_eos ? 1 : 0] += std::min(rest + 1, clip) - std::min(rest, clip);
    }
  }
  if (config_.rules_of_0_5_17) return static_cast<double>(left[0] + left[1]) * ratio_.now();
  return static_cast<double>(left[0]) * ratio_.now() + static_cast<double>(left[1]);
}

double SglangScheduler::remaining_total(const Adder& adder) const {
  return static_cast<double>(free_tokens()) - adder.total_offset;
}

std::int64_t SglangScheduler::remaining_current(const Adder& adder) const {
  return free_tokens() - adder.current_offset;
}

SglangScheduler::Answer SglangScheduler::budget_state(const Adder& adder) const {
  if (remaining_total(adder) <= 0 || remaining_current(adder) <= 0) return Answer::no_token;
  if (cache_.windowed() && remaining_windowed(adder) <= 0) return Answer::no_token;
  if (adder.rem_input <= 0 || (config_.chunking() && adder.rem_chunk <= 0)) return Answer::other;
  return Answer::go_on;
}

void SglangScheduler::reserve(Adder& adder, std::int64_t extend, std::int64_t future) {
  const std::int64_t paged = cache_.page_ceil(extend), now = paged + config_.cache.page_size;
  adder.total_offset += static_cast<double>(now + future);
  adder.current_offset += now;
  if (cache_.windowed()) adder.windowed_offset += windowed_need(paged, future, adder.rem_chunk);
  adder.rem_input -= paged;
  adder.rem_chunk -= paged;
}

// --------------------------------------------------------------------------------------------------
// admission

// §2.6: at least something is computed, whatever the budget says; beside windows it may have to wait
// (`SWAPrefillBudget.available_chunk_tokens`).
std::int64_t SglangScheduler::chunk_tokens(const Adder& adder) const {
  const std::int64_t tokens = std::min(adder.rem_chunk, static_cast<std::int64_t>(remaining_total(adder)));
  if (cache_.windowed()) return std::min(tokens, remaining_windowed(adder) - config_.cache.page_size);
  return tokens <= 0 ? adder.rem_chunk : tokens;
}

// No look-up.
void SglangScheduler::continue_chunk(Adder& adder) {
  const Slot slot = chunked_;
  Sequence& s = sequences_[slot];
  std::int64_t tokens = chunk_tokens(adder);
  if (tokens <= 0) return;
  may_prefill(adder);  // it goes on whatever the answer is
  if (const std::int64_t limit = shorter_work_limit(adder); limit > 0) tokens = std::min(tokens, limit);
  const std::int64_t left = s.input() - s.prefix;
  const bool truncated = left > tokens;
  s.extend_end = s.prefix + std::min(left, tokens);
  adder.batch.push_back(slot);
  reserve(adder, s.extend_end - s.prefix,
          truncated ? 0 : std::min<std::int64_t>(s.max_output, config_.clip_max_new_tokens));
  if (!truncated) chunked_ = no_slot;
}

// §2.3. Who is refused blocks those behind.
void SglangScheduler::admit_from_queue(Adder& adder) {
  // What the batch may hold; a chunk under way keeps its row.
  const std::int64_t rows = config_.max_running_requests;
  const auto going = static_cast<std::int64_t>(adder.batch.size());
  std::size_t admitted = 0;
  for (const Slot slot : waiting_) {
    if (budget_state(adder) == Answer::other) break;
    const auto taken = static_cast<std::int64_t>(adder.batch.size());
    const std::int64_t held = rows_held_ - static_cast<std::int64_t>(admitted);
    if (taken >= std::min(most_rows() - batch_rows(), rows - held + going)) batch_is_full_ = true;
    const bool has_room = std::exchange(adder.made_room, false);
    if (batch_is_full_ && !has_room && (!config_.preempts() || !preempt_for(adder, slot))) break;
    Sequence& s = sequences_[slot];
    const RadixCache::Match hit = cache_.match(s.content, key_length(s.input() - 1));
    s.prefix = s.in_tree = hit.tokens;
    s.looked_up = s.input();
    s.node = hit.node;
    s.branch = hit.full_tokens > hit.tokens + hit.on_host ? hit.full_tokens : 0;
    if (cache_.stateful()) take_matched_state(s, hit);
    const Answer answer = add_one(adder, slot, hit);
    if (adder.batch.size() > static_cast<std::size_t>(taken))
      ++admitted;
    else if (cache_.stateful())
      give_back_states(s);
    if (answer == Answer::go_on) continue;
    if (answer == Answer::no_token) batch_is_full_ = !adder.batch.empty() || batch_rows() > 0;
    break;
  }
  waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<std::ptrdiff_t>(admitted));
}

// The answer after an admission is about the next one.
SglangScheduler::Answer SglangScheduler::add_one(Adder& adder, Slot slot, const RadixCache::Match& hit) {
  Sequence& s = sequences_[slot];
  if (config_.prefill_max_requests > 0 &&
      static_cast<std::int64_t>(adder.batch.size()) >= config_.prefill_max_requests) {
    return Answer::other;
  }
  if (s.ignore_eos && !config_.cache.prefix_sharing) return add_fixed_length(adder, slot);
  const std::int64_t extend = s.input() - s.prefix;
  const std::int64_t future =
      std::min<std::int64_t>(std::max(s.max_output - s.outputs, 0), config_.clip_max_new_tokens);
  const std::int64_t total = extend + future + config_.cache.page_size;
  lock_prefix(s, s.node);  // what it hits is not there to be evicted for it
  const auto refuse = [&](Answer answer) {
    unlock_prefix(s);
    return answer;
  };
  if (static_cast<double>(total) >= remaining_total(adder)) return refuse(Answer::no_token);
  std::int64_t limit = adder.rem_chunk;
  // A load locks the whole window before its end, of which the device may have some already. The engine
  // reckons only what is loaded, and may then stop with "Out of memory".
  const std::int64_t window =
      hit.windowed_on_host > 0 ? hit.windowed_on_host + cache_.idle_window(hit.best_node) : 0;
  if (cache_.windowed() && !windows_admit(adder, extend, future, window, limit))
    return refuse(Answer::no_token);
  Shape shape = shape_of(adder, s, hit.on_host, limit);
  if (shape.verdict != Answer::go_on) return refuse(shape.verdict);
  if (!may_prefill(adder)) return refuse(Answer::other);
  const bool loads = hit.on_host > 0 || hit.windowed_on_host > 0 || hit.state_on_host;
  const std::int64_t grown = loads ? load_back(s, hit) : 0;
  if (grown < hit.on_host) {
    shape = shape_of(adder, s, 0, limit);
    if (shape.verdict != Answer::go_on) return refuse(shape.verdict);
  } else if (grown > hit.on_host) {  // the approved budget stays, the work shrinks
    shape.extend = std::min(shape.extend, s.input() - s.prefix);
    shape.chunked = shape.chunked && s.prefix + shape.extend < s.input();
  }
  commit(adder, slot, shape.extend, shape.chunked);
  return budget_state(adder);
}

// `_select_prefill_admission`: whole, or a chunk, or not now; `on_host` tokens behind the prefix are there.
SglangScheduler::Shape SglangScheduler::shape_of(const Adder& adder, const Sequence& s, std::int64_t on_host,
                                                 std::int64_t limit) const {
  const std::int64_t prefix = s.prefix + on_host, extend = s.input() - prefix;
  const std::int64_t paged = cache_.page_ceil(extend);
  if (!config_.chunking()) {
    const bool too_much = !adder.batch.empty() && paged >= adder.rem_input;
    return {.verdict = too_much ? Answer::other : Answer::go_on, .extend = extend};
  }
  if (paged <= limit) return {.extend = extend};
  // Only one prompt can be under way in chunks. (The engine forgets the first of two that it starts in one
  // batch, which takes pages, no cache and a mix of lengths.)
  if (chunked_ != no_slot || adder.new_chunked != no_slot) return {.verdict = Answer::other};
  const std::int64_t end = cache_.page_floor(prefix + cache_.page_floor(limit));
  if (end <= prefix) return {.verdict = Answer::other};
  return {.extend = end - prefix, .chunked = true};
}

void SglangScheduler::commit(Adder& adder, Slot slot, std::int64_t extend, bool chunked) {
  Sequence& s = sequences_[slot];
  s.extend_end = s.prefix + extend;
  adder.batch.push_back(slot);
  if (chunked) adder.new_chunked = slot;
  // Not less what it has written already, and nothing for a part of a prompt.
  reserve(adder, extend, chunked ? 0 : std::min<std::int64_t>(s.max_output, config_.clip_max_new_tokens));
  counters_.queried_tokens += static_cast<std::uint64_t>(s.input());
  counters_.hit_tokens += static_cast<std::uint64_t>(s.prefix);
  admissions_.push_back({.sequence = SequenceId(slot),
                         .request = s.request,
                         .cached_tokens = static_cast<std::int32_t>(s.prefix),
                         .resumed = s.admitted});
  s.admitted = true;
  ++rows_held_;
}

// §2.5: without a cache a request of fixed length is admitted when all ends are seen to come in time.
SglangScheduler::Answer SglangScheduler::add_fixed_length(Adder& adder, Slot slot) {
  const Sequence& s = sequences_[slot];
  const std::int64_t extend = s.input();
  const std::int64_t cost = cache_.page_ceil(extend) + config_.cache.page_size;
  if (cost > remaining_current(adder) || static_cast<double>(cost) > remaining_total(adder)) {
    return Answer::no_token;
  }
  const std::int64_t future =
      std::min<std::int64_t>(std::max(s.max_output - s.outputs, 0), config_.clip_max_new_tokens);
  if (cache_.windowed() && windowed_need(extend, future, adder.rem_chunk) > remaining_windowed(adder))
    return Answer::no_token;
  if (!outlasts(adder, slot, cost)) return Answer::no_token;
  if (!may_prefill(adder)) return Answer::other;
  if (!config_.chunking() || extend <= adder.rem_chunk) {
    commit(adder, slot, extend, false);
  } else {
    if (adder.rem_chunk <= 0 || chunked_ != no_slot || adder.new_chunked != no_slot) return Answer::other;
    commit(adder, slot, adder.rem_chunk, true);
  }
  return budget_state(adder);
}

bool SglangScheduler::outlasts(Adder& adder, Slot slot, std::int64_t cost) {
  const auto state_of = [&](const Sequence& s, std::int32_t outputs) {
    const double ratio = s.ignore_eos ? 1.0 : ratio_.now();
    return std::pair<double, std::int64_t>{s.max_output * ratio - outputs, std::int64_t{s.prompt} + outputs};
  };
  const Sequence& candidate = sequences_[slot];
  auto& states = adder.states;
  const auto own = state_of(candidate, candidate.outputs);
  if (!adder.has_states) {
    adder.has_states = true;
    const auto add = [&](const std::pair<double, std::int64_t>& state) {
      if (state.first > 0) states.push_back(state);
    };
    add(own);
    for (const Slot running : running_in_order()) {
      const Sequence& s = sequences_[running];
      add(state_of(s, known_outputs(s)));
    }
    for (const Slot admitted : adder.batch) add(state_of(sequences_[admitted], sequences_[admitted].outputs));
    std::stable_sort(states.begin(), states.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
  } else if (own.first > 0) {
    // The engine's loop leaves its index on the last entry when none is large enough.
    std::size_t i = 0;
    while (i + 1 < states.size() && own.first > states[i].first) ++i;
    states.insert(states.begin() + static_cast<std::ptrdiff_t>(std::min(i, states.size())), own);
  }
  const auto current = static_cast<double>(remaining_current(adder) - cost);
  double freed = 0;
  for (std::size_t i = 0; i < states.size(); ++i) {
    const auto behind = static_cast<double>(states.size() - i);
    if (current + freed - states[i].first * behind <= behind) return false;
    freed += static_cast<double>(states[i].second);
  }
  return true;
}

// -----------------------------------------------------------------------------------------------------
// launch

// `alloc_for_extend`. False where the engine would stop with "Out of memory".
bool SglangScheduler::allocate_batch(const Adder& adder) {
  const std::int64_t page = config_.cache.page_size;
  if (cache_.windowed()) slide_prompts(adder);
  if (cache_.stateful() && !take_batch_states(adder)) return false;
  std::int64_t tokens = 0, need = 0;
  for (const Slot slot : adder.batch) {
    const Sequence& s = sequences_[slot];
    tokens += s.extend_end - s.prefix;
    need += cache_.page_ceil(s.extend_end) - cache_.page_ceil(s.prefix);
  }
  if (page > 1) tokens += static_cast<std::int64_t>(adder.batch.size()) * page;  // as if each began a page
  cache_.make_room(tokens);
  if (cache_.available() < need || (cache_.windowed() && cache_.windowed_available() < need)) return false;
  cache_.take(need);
  return true;
}

void SglangScheduler::launch_batch(const Adder& adder) {
  launching_.decodes = false;
  if (config_.role == SglangRole::prefill) send_cached(adder);
  for (const Slot slot : adder.batch) {
    Sequence& s = sequences_[slot];
    const bool samples = s.extend_end == s.input();
    chunks_.push_back({.sequence = SequenceId(slot),
                       .request = s.request,
                       .new_tokens = static_cast<std::int32_t>(s.extend_end - s.prefix),
                       .context = s.prefix,
                       .samples = samples,
                       .outputs_before = s.outputs});
    plan_prefill_tokens_ += s.extend_end - s.prefix;
    if (config_.walking()) {
      s.speech.outputs = s.outputs;
      s.speech.verified = 0;
      s.speech.committed = s.speech.allocated = s.extend_end;
      s.speech.step = next_step_;
    }
    if (!samples) {
      s.state = State::chunked;
      last_batch_had_chunk_ = true;
      if (config_.role == SglangRole::prefill) launching_.parts.emplace_back(entry_of(slot), s.extend_end);
      continue;
    }
    s.state = State::prefilled;
    s.order = next_order_++;
    s.prefill_step = next_step_;
    last_batch_.push_back(entry_of(slot));
  }
  launching_.prefilled = last_batch_;
}

// §2.8 `enable_mixed_chunk`: the running requests join with one token each, behind the prompts, if there is
// room; nobody is retracted for it.
SglangScheduler::Kind SglangScheduler::mix_with_running() {
  dead_rows_ = 0;
  if (leave_out_ending()) batch_is_full_ = false;
  if (running_count_ == 0 || !cache_.make_room(decode_need())) return Kind::extend;
  front_order_ -= static_cast<std::int64_t>(last_batch_.size());
  std::int64_t order = front_order_;
  for (const Entry& entry : last_batch_) sequences_[entry.slot].order = order++;
  if (cache_.stateful() && !config_.walking()) {
    for (const Slot slot : running_in_order()) miss_state(sequences_[slot], context_of(sequences_[slot]) + 1);
  }
  launch_decode(true);
  last_batch_mixed_ = true;
  return Kind::mixed;
}

}  // namespace orrery
