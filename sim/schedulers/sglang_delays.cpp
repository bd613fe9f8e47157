// Delays of prefill (managers/prefill_delayer.py and min_free_slots_delayer.py of 0.5.23, and what
// `Scheduler.get_new_batch_prefill` and PrefillAdder do with them). Passes that the delayer keeps from a
// prompt decode instead.
//
// Ranks negotiate once a pass, at the first candidate that each of them could admit. So a pass of theirs
// comes in two parts (sim/sglang_ranks.cpp): open_pass() goes as far as that question, and schedule() goes on
// with the answer. Who is refused before it is asked for would be refused by the rest of the pass too.
#include <algorithm>

#include "sim/schedulers/sglang.h"

namespace orrery {

// `MinFreeSlotsDelayer.should_delay`; a prompt that goes on in chunks is not kept.
bool SglangScheduler::waits_for_free_slots() const {
  const std::int64_t least = std::min(config_.delays.free_slots, config_.max_running_requests);
  if (least <= 1 || chunked_ != no_slot || batch_rows() == 0) return false;
  return std::min(most_rows() - batch_rows(), config_.max_running_requests - rows_held_) < least;
}

// `get_max_pool_usage`, before anybody is looked up, below the low watermark.
bool SglangScheduler::little_used() const {
  if (!config_.delays.on || config_.delays.low_usage <= 0) return false;
  double usage = 1 - static_cast<double>(free_tokens()) / static_cast<double>(config_.cache.tokens);
  if (cache_.windowed()) {
    const auto slots = static_cast<double>(cache_.windowed_available() + cache_.windowed_evictable());
    usage = std::max(usage, 1 - slots / static_cast<double>(config_.cache.windowed_tokens));
  }
  if (cache_.stateful()) {
    const auto slots = static_cast<double>(cache_.free_states() + cache_.idle_states());
    usage = std::max(usage, 1 - slots / static_cast<double>(config_.cache.state_slots));
  }
  return usage < config_.delays.low_usage;
}

PrefillVote SglangScheduler::vote(const Adder& adder) const {
  return {.asks = adder.asked,
          .little_used = adder.little_used,
          .running = batch_rows(),
          .largest = largest_batch_,
          .waiting = static_cast<std::int64_t>(waiting_.size())};
}

// `negotiate_should_allow_prefill`: asked when somebody could be admitted; one answer a pass.
bool SglangScheduler::may_prefill(Adder& adder) {
  if (!config_.delays.on) return true;
  // `_estimate_attempted_prefill_bs`
  const std::int64_t slots = std::max<std::int64_t>(config_.max_running_requests - batch_rows(), 1);
  const auto queue = std::max<std::int64_t>(static_cast<std::int64_t>(waiting_.size()), 1);
  adder.attempted = std::max(adder.attempted, std::min(queue, slots));
  const bool first = !std::exchange(adder.asked, true);
  if (config_.negotiates) return !adder.polls && answer_;
  if (first) {
    const PrefillVote own = vote(adder);
    answer_ = delayer_.allows(config_.delays, std::span(&own, 1), delay_limits(), now_);
  }
  return answer_;
}

// `finalize`: of the latest 16 attempts (SGLANG_PREFILL_DELAYER_MAX_PREFILL_BS_WINDOW_SIZE) the largest
// counts. Nobody who could be admitted ends a delay too.
void SglangScheduler::end_attempt(const Adder& adder, Kind kind) {
  constexpr std::size_t window = 16;
  if (!config_.delays.on) return;
  if (!adder.asked && !config_.negotiates) {
    const PrefillVote nobody;
    delayer_.allows(config_.delays, std::span(&nobody, 1), delay_limits(), now_);
  }
  put_off_ = adder.asked && !answer_ && kind == Kind::none;
  const std::int64_t rows = static_cast<std::int64_t>(adder.batch.size()) + plan_decodes_;
  const std::int64_t size = kind == Kind::none ? adder.attempted : rows;
  if (size == 0) return;
  recent_batches_.push_back(size);
  if (recent_batches_.size() > window) recent_batches_.pop_front();
  largest_batch_ = *std::max_element(recent_batches_.begin(), recent_batches_.end());
}

// -------------------------------------------------------------------------------------------- between ranks

PrefillVote SglangScheduler::open_pass() {
  if (out_of_memory_) return {};
  begin_plan();
  begin_pass();
  opened_ = true;
  put_off_ = false;
  polled_ = Adder{};
  if (deferred_) return {};
  polled_ = begin_attempt();
  if (!polled_.tries) return {};
  if (chunked_ != no_slot && chunk_tokens(polled_) > 0) {
    polled_.asked = config_.delays.on;
  } else if (config_.delays.on) {
    polled_.polls = true;
    admit_from_queue(polled_);
  }
  return vote(polled_);
}

// The attempt that open_pass() began. Nobody asked: it has failed. Otherwise it is made again, to its end;
// whoever had to make room for its first candidate is gone already.
SglangScheduler::Adder SglangScheduler::resume_attempt() {
  opened_ = false;
  if (!polled_.tries || (polled_.polls && !polled_.asked)) {
    polled_.tries = false;
    return std::move(polled_);
  }
  Adder adder = make_adder();
  adder.tries = true;
  adder.attempted = polled_.attempted;
  adder.made_room = !displaced_.empty();
  return adder;
}

// A rank without requests beside ranks that have some goes through its passes too.
void SglangScheduler::pass_idle() {
  if (config_.role == SglangRole::whole) defer_prefill();
}

// `_arm_prefill_decode_interval`: is_extend_in_batch is of all ranks.
void SglangScheduler::prompts_ran() {
  if (config_.role == SglangRole::whole) interval_left_ = config_.prefill_decode_interval;
}

}  // namespace orrery
