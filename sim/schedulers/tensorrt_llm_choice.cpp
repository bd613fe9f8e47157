// Who runs in a pass: the capacity scheduler (§2 of ../shared/reference/tensorrt_llm_1_2.md) and the
// micro-batch scheduler behind it (§3). Both walk in the same order, so they are one walk where the first
// cannot decide anything behind the place at which the second stops.
#include <algorithm>

#include "sim/schedulers/tensorrt_llm.h"

namespace orrery {

std::int64_t TensorRtLlmScheduler::blocks_to_completion(const Sequence& s) const {
  // Drafts may hold a block behind the limit. The engine then reckons less than nothing, and hands that block
  // out twice; here it does not.
  return std::max<std::int64_t>(0, reserve_of(s) - (is_started(s) ? held_blocks(s) : 0));
}

// §2.1 one_step, without look-ahead: that is for PP.
std::int64_t TensorRtLlmScheduler::blocks_of_next_step(const Sequence& s) const {
  if (s.state == State::context) return blocks_for(s.target);
  if (s.state == State::prefilling) return 0;
  if (walks()) {  // drafts behind the limit are not reckoned
    const std::int64_t limit = std::int64_t{s.prompt} + s.max_output;
    return std::max<std::int64_t>(
        0, blocks_for(std::min(s.speech.tokens + row_tokens(), limit)) - held_blocks(s));
  }
  return needs_new_block(context_of(s)) ? 1 : 0;
}

bool TensorRtLlmScheduler::started_behind(std::uint64_t order) const { return highest_started_ > order; }

// The common case: tokens and blocks suffice for all generations, so their order decides nothing. Changes
// nothing but `rows_` and `keys_`, and returns false, when it might.
bool TensorRtLlmScheduler::choose_at_once() {
  if (!config_.stretches || walks() || windowed()) return false;
  std::int64_t budget = config_.max_num_batched_tokens - decodes_.size();
  std::int64_t available = kv_.free_blocks();
  if (budget < 0) return false;
  if (rules_.max_utilization) {
    available -= decodes_.new_blocks(next_step_);
    for (const Slot slot : to_complete_) available -= blocks_of_next_step(sequences_[slot]);
    if (available < 0) return false;
  } else {
    available -= owed_;
  }
  if (!contexts_.empty() && takes_in()) {
    note_keys_in_progress();
    if (!take_contexts(available, budget)) {
      rows_.clear();
      keys_.clear();
      chunked_ = budget_blocked_ = false;
      return false;
    }
  }
  plan_decodes_ = decodes_.size();
  plan_decode_context_ = decodes_.context_sum(next_step_);
  plan_decode_blocks_ = decodes_.new_blocks(next_step_);
  return true;
}

// §2.2: what generations may still need is theirs; contexts, half-prefilled ones too, in order while they fit
// to their end. Generations come first in the output, so they come first in the budget.
void TensorRtLlmScheduler::choose_no_evict() {
  std::int64_t available = kv_.free_blocks(), budget = config_.max_num_batched_tokens;
  bool all = true;
  window_available_ = window_free_blocks();
  for (Slot slot = active_head_; slot != no_slot; slot = sequences_[slot].next) {
    const Sequence& s = sequences_[slot];
    if (windowed() && s.state == State::receiving) window_available_ -= window_to_completion(s);
    if (!is_generation(s)) continue;
    available -= blocks_to_completion(s);
    if (windowed()) window_available_ -= window_to_completion(s);
    if (s.state != State::decoding || in_flight(s)) continue;
    all &= budget >= row_tokens() && !is_full();  // §3.1: the first misfit ends the batch
    if (!all) {
      pass_over(slot);
      continue;
    }
    run_generation(slot);
    budget -= row_tokens();
  }
  ORRERY_CHECK(walks() || available == kv_.free_blocks() - owed_ + remote_.reserved,
               "what generations are owed adds up");
  available -= remote_.reserved;
  if (!all || !takes_in()) return;
  note_keys_in_progress();
  take_contexts(available, budget);
}

// §1.4, `_waiting_requests` (pyexecutor/py_executor.py): prompts that were chosen beside generations wait
// while all tokens together, of prompts those known to the host and not their chunks, are few. Nobody else
// gets their tokens, and they take no blocks.
bool TensorRtLlmScheduler::waits_for_batch() {
  if (batch_wait_iters_ == 0 || batch_wait_tokens_ == 0) return false;
  if (rows_.empty() || plan_decodes_ == 0) return false;
  std::int64_t tokens = plan_decodes_ * row_tokens();
  for (const Row& row : rows_) tokens += sequences_[row.slot].target;
  const bool waits = batch_waits_ < batch_wait_iters_ && tokens < batch_wait_tokens_;
  batch_waits_ = waits ? batch_waits_ + 1 : 0;
  return waits;
}

void TensorRtLlmScheduler::choose_max_utilization() {
  fit_max_utilization();
  run_in_list_order();
}

// §2.3. A misfit pauses the last started request at or behind it; what the victim's release frees counts from
// then on, and nobody behind the victim is looked at.
void TensorRtLlmScheduler::fit_max_utilization() {
  fits_.clear();
  note_keys_in_progress();
  kv_.begin_simulation();
  if (window_kv_) window_kv_->begin_simulation();
  std::int64_t free = kv_.free_blocks(), scheduled = 0, window_scheduled = 0;
  window_available_ = window_free_blocks();
  Slot end = no_slot;
  for (Slot slot = active_head_; slot != end;) {
    const Sequence& s = sequences_[slot];
    if (s.state == State::context && is_duplicate(slot)) {  // on a retry it finds its own key
      slot = s.next;
      continue;
    }
    const std::int64_t need = blocks_of_next_step(s);
    const std::int64_t window_need = windowed() ? window_next_step(s) : 0;
    if (scheduled + need <= free && window_scheduled + window_need <= window_available_) {
      scheduled += need;
      window_scheduled += window_need;
      fits_.push_back(slot);
      slot = s.next;
      continue;
    }
    Slot victim = end == no_slot ? active_tail_ : sequences_[end].previous;
    while (victim != slot && !is_started(sequences_[victim])) victim = sequences_[victim].previous;
    if (!is_started(sequences_[victim])) break;
    free += kv_.simulate_release(sequences_[victim].kv, held_blocks(sequences_[victim]));
    if (windowed()) window_available_ += simulate_window_release(sequences_[victim]);
    victims_.push_back(victim);
    victims_for_.push_back(slot);
    end = victim;
  }
  highest_started_ = 0;
  for (Slot slot = active_head_; slot != end; slot = sequences_[slot].next) {
    if (is_started(sequences_[slot])) highest_started_ = sequences_[slot].order;
  }
}

// §3.1 over the fitting requests in list order: without chunking a context in front takes tokens before the
// generations behind it, and the first misfit loses all behind.
void TensorRtLlmScheduler::run_in_list_order() {
  std::int64_t budget = config_.max_num_batched_tokens;
  bool stopped = false;
  std::size_t contexts = 0;  // to be chunked: moved to the front of fits_
  for (const Slot slot : fits_) {
    const Sequence& s = sequences_[slot];
    if (s.state == State::to_complete) continue;
    if (s.state == State::decoding) {
      stopped |= budget < row_tokens();
      if (stopped) {
        pass_over(slot);
      } else {
        run_generation(slot);
        budget -= row_tokens();
      }
    } else if (!stopped) {
      if (config_.enable_chunked_prefill)
        fits_[contexts++] = slot;
      else
        stopped = !add_whole(slot, budget);
    }
  }
  const std::int64_t capacity = budget;
  for (std::size_t i = 0; i < contexts; ++i) add_chunk(fits_[i], budget);
  if (rules_.equal_progress && contexts > 0) spread_chunks(capacity);
}

// Contexts in list order, under both policies: blocks, then tokens. False when the walk in list order would
// have gone on behind a misfit (MAX_UTILIZATION, §2.3: somebody behind it could be paused or lose his
// tokens).
bool TensorRtLlmScheduler::take_contexts(std::int64_t available, std::int64_t& budget) {
  const std::int64_t capacity = budget;
  const bool list_order = rules_.max_utilization;
  for (const Slot slot : contexts_) {
    const Sequence& s = sequences_[slot];
    if (is_full()) break;
    const std::int64_t need = list_order ? blocks_of_next_step(s) : blocks_to_completion(s);
    const std::int64_t window_need = windowed() ? window_to_completion(s) : 0;
    const bool misfit = need > available || (windowed() && window_need > window_available_);
    const bool skippable = !(misfit && keys_.empty());  // else the tree need not be asked
    if (s.state == State::context && skippable && is_duplicate(slot)) continue;
    if (misfit) {
      if (list_order && started_behind(s.order)) return false;
      break;
    }
    available -= need;
    window_available_ -= window_need;
    bool goes_on = true;
    if (config_.enable_chunked_prefill) {
      add_chunk(slot, budget);
      goes_on = rules_.equal_progress || budget >= chunk_unit() || fits_behind(slot, budget);
    } else {
      goes_on = add_whole(slot, budget);
    }
    if (goes_on) continue;
    if (list_order && started_behind(s.order)) return false;
    break;
  }
  if (config_.enable_chunked_prefill && rules_.equal_progress) spread_chunks(capacity);
  return true;
}

// Whether a context behind this one could still run in less than a unit of tokens: only one that ends with
// them.
bool TensorRtLlmScheduler::fits_behind(Slot slot, std::int64_t budget) const {
  if (budget == 0) return false;
  auto at = std::find(contexts_.begin(), contexts_.end(), slot);
  return std::any_of(at + 1, contexts_.end(), [&](Slot behind) {
    return sequences_[behind].target - sequences_[behind].computed <= budget;
  });
}

// §2.4. The key of the first full block that the tree lacks; none when it has them all.
bool TensorRtLlmScheduler::find_key(Slot slot) {
  Sequence& s = sequences_[slot];
  if (s.key_version != kv_.tree_version() + 1) {
    const auto key = kv_.first_missing(s.kv, s.target);
    s.has_key = key.has_value();
    s.key = key.value_or(0);
    s.key_version = kv_.tree_version() + 1;
  }
  return s.has_key;
}

// §2.4: another context of this pass will bring the block that this one misses first. If not, it will. With
// several window sizes the engine does not look (`findNewContextBlock`).
bool TensorRtLlmScheduler::is_duplicate(Slot slot) {
  if (!config_.enable_prefix_caching || windowed() || is_static() || !find_key(slot)) return false;
  const std::uint64_t key = sequences_[slot].key;
  const auto place = std::lower_bound(keys_.begin(), keys_.end(), key);
  if (place != keys_.end() && *place == key) return true;
  keys_.insert(place, key);
  return false;
}

void TensorRtLlmScheduler::note_keys_in_progress() {
  if (prefilling_ == 0) return;
  for (const Slot slot : contexts_) {
    if (sequences_[slot].state == State::prefilling) is_duplicate(slot);
  }
}

// §3.1 without chunking: all tokens of the prompt or none. A paused sequence may have grown beyond what any
// batch holds (the engine raises an exception there): it runs when nothing else does.
bool TensorRtLlmScheduler::add_whole(Slot slot, std::int64_t& budget) {
  const std::int64_t tokens = sequences_[slot].target, most = config_.max_num_batched_tokens;
  if (tokens > budget && !(tokens > most && budget == most)) return false;
  rows_.push_back({slot, tokens});
  budget -= std::min(tokens, budget);
  return true;
}

// §3.2, first come first served: what is left, in whole units when that cuts the prompt; no break, so a later
// short prompt may still fit. (When all fit this gives every context its rest, as §3.1 does.) For equal
// progress the candidates are only noted.
void TensorRtLlmScheduler::add_chunk(Slot slot, std::int64_t& budget) {
  const Sequence& s = sequences_[slot];
  const std::int64_t rest = s.target - s.computed;
  if (rules_.equal_progress) {
    rows_.push_back({slot, rest});
    return;
  }
  std::int64_t chunk = std::min({budget, rest, config_.max_num_batched_tokens});
  if (chunk < rest) {
    chunked_ = true;
    chunk = chunk / chunk_unit() * chunk_unit();
  }
  budget -= chunk;
  if (chunk > 0)
    rows_.push_back({slot, chunk});
  else
    budget_blocked_ = true;
}

// §3.2, equal progress: rounds of one unit for each until nothing more fits.
void TensorRtLlmScheduler::spread_chunks(std::int64_t capacity) {
  const std::int64_t most = config_.max_num_batched_tokens, unit = chunk_unit();
  std::int64_t sum = 0;
  for (const Row& row : rows_) {
    sum += std::min(row.tokens, most);
    chunked_ |= row.tokens > most;
  }
  chunked_ |= sum > capacity;
  if (!chunked_) return;
  for (Row& row : rows_) row.tokens = 0;
  std::int64_t used = 0, round = 1;
  while (used < capacity && round > 0) {
    round = 0;
    for (Row& row : rows_) {
      const Sequence& s = sequences_[row.slot];
      const std::int64_t more = std::min(unit, s.target - s.computed - row.tokens);
      if (used + more > capacity || row.tokens + more > most) continue;
      row.tokens += more;
      used += more;
      round += more;
    }
  }
  budget_blocked_ |= std::erase_if(rows_, [](const Row& row) { return row.tokens == 0; }) > 0;
}

// What libstdc++'s std::sort does to rows that are all equal: the sort by LoRA task, of which there are none
// (`sortRequests`, batch_manager/utils/inflightBatchingUtils.cpp). Up to 16 it leaves alone; of more the
// median of three, which is the middle one, comes first, and all others change sides around it, again in each
// half.
void TensorRtLlmScheduler::sort_equal_rows(std::size_t first, std::size_t last) {
  while (last - first > 16) {
    std::swap(rows_[first], rows_[first + (last - first) / 2]);
    std::size_t low = first + 1, high = last;
    while (low < --high) std::swap(rows_[low++], rows_[high]);
    sort_equal_rows(low, last);
    last = low;
  }
}

// §3.3: when some context was cut, those with more to come are moved in front, in the order that libstdc++'s
// std::partition leaves. Both parts are then sorted.
void TensorRtLlmScheduler::order_rows() {
  std::size_t first = 0, last = rows_.size();
  const auto goes_on = [&](const Row& row) {
    return row.tokens < sequences_[row.slot].target - sequences_[row.slot].computed;
  };
  while (chunked_) {
    while (first != last && goes_on(rows_[first])) ++first;
    if (first == last) break;
    --last;
    while (first != last && !goes_on(rows_[last])) --last;
    if (first == last) break;
    std::swap(rows_[first++], rows_[last]);
  }
  sort_equal_rows(0, first);
  sort_equal_rows(first, rows_.size());
}

void TensorRtLlmScheduler::run_generation(Slot slot) {
  const std::int64_t context = context_of(sequences_[slot]);
  ++plan_decodes_;
  plan_decode_context_ += context;
  if (walks()) return run_speaking(slot);
  plan_decode_blocks_ += needs_new_block(context) ? 1 : 0;
}

void TensorRtLlmScheduler::pass_over(Slot slot) {
  if (staged()) return;  // between its tokens lie several passes anyway
  Sequence& s = sequences_[slot];
  if (walks()) {
    s.speech.passed_over = true;
    passed_now_.push_back(SequenceId(slot));
    return;
  }
  const std::int64_t context = context_of(s);
  s.outputs = outputs_before_next_step(s);
  decodes_.remove(s.base);
  s.computed = context;
  s.state = State::passed;
  ++s.epoch;
  passed_.push_back(slot);
  passed_now_.push_back(SequenceId(slot));
}

}  // namespace orrery
