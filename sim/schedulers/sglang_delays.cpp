// Delays of prefill (managers/prefill_delayer.py and min_free_slots_delayer.py of 0.5.23, and what
// `Scheduler.get_new_batch_prefill` and PrefillAdder do with them), for one rank: what ranks would tell one
// another is its own. Passes that the delayer keeps from a prompt decode instead.
#include <algorithm>

#include "sim/schedulers/sglang.h"

namespace orrery {

// `MinFreeSlotsDelayer.should_delay`; a prompt that goes on in chunks is not kept.
bool SglangScheduler::waits_for_free_slots() const {
  const std::int64_t least = std::min(config_.delays.free_slots, config_.max_running_requests);
  if (least <= 1 || chunked_ != no_slot || batch_rows() == 0) return false;
  return std::min(most_rows() - batch_rows(), config_.max_running_requests - rows_held_) < least;
}

// `negotiate_should_allow_prefill`: asked when somebody could be admitted; one answer a pass.
bool SglangScheduler::may_prefill(Adder& adder) {
  if (!config_.delays.on) return true;
  // `_estimate_attempted_prefill_bs`
  const std::int64_t slots = std::max<std::int64_t>(config_.max_running_requests - batch_rows(), 1);
  const auto queue = std::max<std::int64_t>(static_cast<std::int64_t>(waiting_.size()), 1);
  adder.attempted = std::max(adder.attempted, std::min(queue, slots));
  if (adder.verdict < 0) adder.verdict = delayer_allows() ? 1 : 0;
  return adder.verdict == 1;
}

// `_negotiate_should_allow_prefill_pure` with a prompt that could be admitted.
bool SglangScheduler::delayer_allows() {
  const PrefillDelays& d = config_.delays;
  const std::int64_t delayed = delayer_.delayed;
  delayer_.delayed = 0;
  const double capacity = static_cast<double>(config_.cache.tokens);
  double usage = 1 - static_cast<double>(free_tokens()) / capacity;
  if (cache_.windowed()) {
    const auto slots = static_cast<double>(cache_.windowed_available() + cache_.windowed_evictable());
    usage = std::max(usage, 1 - slots / static_cast<double>(config_.cache.windowed_tokens));
  }
  if (cache_.stateful()) {
    const auto slots = static_cast<double>(cache_.free_states() + cache_.idle_states());
    usage = std::max(usage, 1 - slots / static_cast<double>(config_.cache.state_slots));
  }
  if (d.low_usage > 0 && usage < d.low_usage) return true;
  bool waits = config_.max_running_requests - batch_rows() < delayer_.largest;
  if (d.queue_ratio > 0 && batch_rows() > 0) {
    const std::int64_t most =
        config_.prefill_max_requests > 0 ? config_.prefill_max_requests : delayer_.largest;
    const std::int64_t least = std::min(static_cast<std::int64_t>(batch_rows() * d.queue_ratio), most);
    const bool late = delayed > 0 && (now_ - delayer_.since).milliseconds() >= d.most_ms;
    waits = waits || (!late && static_cast<std::int64_t>(waiting_.size()) < least);
  }
  if (!waits) return true;
  if (std::exchange(delayer_.skips_first, false)) return true;
  if (delayed >= d.passes - 1) return true;
  if (delayed == 0) delayer_.since = now_;
  delayer_.delayed = delayed + 1;
  return false;
}

// `finalize`: of the latest 16 attempts (SGLANG_PREFILL_DELAYER_MAX_PREFILL_BS_WINDOW_SIZE) the largest
// counts. Nobody who could be admitted ends a delay too.
void SglangScheduler::end_attempt(const Adder& adder, Kind kind) {
  constexpr std::size_t window = 16;
  if (!config_.delays.on) return;
  if (adder.verdict < 0) delayer_.delayed = 0;
  const std::int64_t rows = static_cast<std::int64_t>(adder.batch.size()) + plan_decodes_;
  const std::int64_t size = kind == Kind::none ? adder.attempted : rows;
  if (size == 0) return;
  delayer_.recent.push_back(size);
  if (delayer_.recent.size() > window) delayer_.recent.pop_front();
  delayer_.largest = *std::max_element(delayer_.recent.begin(), delayer_.recent.end());
}

}  // namespace orrery
