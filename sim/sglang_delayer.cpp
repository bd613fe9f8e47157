#include "sim/sglang_delayer.h"

#include <algorithm>
#include <utility>

namespace orrery {

namespace {

std::int64_t largest(std::span<const PrefillVote> ranks, std::int64_t PrefillVote::*member) {
  std::int64_t most = 0;
  for (const PrefillVote& rank : ranks) most = std::max(most, rank.*member);
  return most;
}

}  // namespace

bool PrefillDelayer::allows(const PrefillDelays& rules, std::span<const PrefillVote> ranks,
                            const Limits& limits, SimTime now) {
  const auto asks = [](const PrefillVote& rank) { return rank.asks; };
  const bool somebody = std::any_of(ranks.begin(), ranks.end(), asks);
  const bool everybody = std::all_of(ranks.begin(), ranks.end(), asks);
  const bool little = std::any_of(ranks.begin(), ranks.end(),
                                  [](const PrefillVote& rank) { return rank.asks && rank.little_used; });
  if (somebody && !little) {
    if (!everybody) {  // "mixed": the others' prompts may come soon
      if (delay(rules, now)) return false;
    } else if (waits(rules, ranks, limits, now) && !std::exchange(skips_first_, false) && delay(rules, now)) {
      return false;
    }
  }
  delayed_ = 0;
  return true;
}

// "all": a batch as large as the largest of late would not fit; or, where that was asked for, the queue is
// still short beside the running batch.
bool PrefillDelayer::waits(const PrefillDelays& rules, std::span<const PrefillVote> ranks,
                           const Limits& limits, SimTime now) const {
  const std::int64_t running = largest(ranks, &PrefillVote::running);
  const std::int64_t batch = largest(ranks, &PrefillVote::largest);
  if (limits.running_requests - running < batch) return true;
  if (rules.queue_ratio <= 0 || running == 0) return false;
  const std::int64_t most = limits.prefill_requests > 0 ? limits.prefill_requests : batch;
  const auto share = static_cast<std::int64_t>(static_cast<double>(running) * rules.queue_ratio);
  const bool late = delayed_ > 0 && (now - since_).milliseconds() >= rules.most_ms;
  return !late && largest(ranks, &PrefillVote::waiting) < std::min(share, most);
}

bool PrefillDelayer::delay(const PrefillDelays& rules, SimTime now) {
  if (delayed_ >= rules.passes - 1) return false;
  if (delayed_ == 0) since_ = now;
  ++delayed_;
  return true;
}

}  // namespace orrery
