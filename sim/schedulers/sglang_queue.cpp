// The order of the queue (§2.2; `SchedulePolicy.calc_priority`), and what ordering does to the cache.
#include <algorithm>
#include <limits>
#include <tuple>

#include "sim/schedulers/sglang.h"
#include "sim/sglang_balancer.h"

namespace orrery {

namespace {

// schedule_policy.py
constexpr std::size_t longest_matched_queue = 128;  // WAITING_QUEUE_PREFIX_MATCH_MAX
constexpr std::uint64_t refresh_interval = 32;      // WAITING_PREFIX_REFRESH_INTERVAL

}  // namespace

void SglangScheduler::order_queue() {
  switch (config_.schedule_policy) {
    case QueuePolicy::fcfs: break;
    case QueuePolicy::lof:
      if (config_.enable_priority_scheduling) break;  // the queue is kept in order (sglang_priority.cpp)
      std::stable_sort(waiting_.begin(), waiting_.end(),
                       [&](Slot a, Slot b) { return sequences_[a].max_output > sequences_[b].max_output; });
      break;
    case QueuePolicy::lpm:  // a long queue stays in its present order
      if (waiting_.size() > longest_matched_queue) break;
      return sort_by_prefix();
    case QueuePolicy::shortest_prefill_first: return sort_by_prefix();
    case QueuePolicy::dfs_weight: return sort_by_weight();
    case QueuePolicy::random: sort_randomly(); break;
    case QueuePolicy::hrrn:
      if (waiting_.size() > longest_matched_queue) break;
      return sort_by_response_ratio();
    case QueuePolicy::routing_key: sort_by_routing_key(); break;
  }
  touch_waiting_prefixes();
}

// Every 32nd time the prefixes of the first 128 are touched, the head's last, so that they are evicted in
// reverse order of admission.
void SglangScheduler::touch_waiting_prefixes() {
  if (config_.rules_of_0_5_17) return;
  if (!config_.cache.prefix_sharing || config_.cache.eviction != Eviction::lru || waiting_.empty()) return;
  if (refresh_calls_++ % refresh_interval != 0) return;
  for (std::size_t i = std::min(waiting_.size(), longest_matched_queue); i-- > 0;) {
    const Sequence& s = sequences_[waiting_[i]];
    cache_.match(s.content, key_length(s.input()));
  }
}

// Cache-aware policies look everybody up.
void SglangScheduler::sort_by_prefix() {
  struct Rank {
    std::tuple<bool, std::int64_t, std::int64_t> key;
    Slot slot;
  };
  const bool shortest = config_.schedule_policy == QueuePolicy::shortest_prefill_first;
  RadixCache queue = simulated_tree();
  std::vector<Rank> ranks;
  for (const Slot slot : waiting_) {
    Sequence& s = sequences_[slot];
    RadixCache::Node node;
    const bool later = find_prefix(s, queue, node);
    if (shortest) {
      ranks.push_back({{later, std::max<std::int64_t>(1, s.input() - s.prefix), s.queued}, slot});
    } else {
      ranks.push_back({{later, later ? 0 : -s.prefix, 0}, slot});
    }
  }
  std::stable_sort(ranks.begin(), ranks.end(), [](const Rank& a, const Rank& b) { return a.key < b.key; });
  for (std::size_t i = 0; i < ranks.size(); ++i) waiting_[i] = ranks[i].slot;
}

// shortest-prefill-first: how much of the budget the prompt under way may have, so that shorter ones of the
// queue fit beside it; 0 = all.
std::int64_t SglangScheduler::shorter_work_limit(const Adder& adder) const {
  const std::int64_t page = config_.cache.page_size, budget = adder.rem_chunk;
  if (config_.schedule_policy != QueuePolicy::shortest_prefill_first || budget < 2 * page) return 0;
  const Sequence& going = sequences_[chunked_];
  std::int64_t reserved = 0;
  for (const Slot slot : waiting_) {
    const Sequence& s = sequences_[slot];
    const std::int64_t work = std::max<std::int64_t>(1, s.input() - s.prefix),
                       charge = cache_.page_ceil(work);
    if (work >= going.input() - going.prefix || reserved + charge > budget - page) break;
    reserved += charge;
  }
  return reserved == 0 ? 0 : cache_.page_floor(budget - reserved);
}

PublishedLoad SglangScheduler::load() const {
  PublishedLoad load{.requests = running_count_ + static_cast<std::int64_t>(waiting_.size()),
                     .tokens = config_.cache.tokens - free_tokens()};
  for (const Slot slot : waiting_) load.tokens += sequences_[slot].input();
  return load;
}

}  // namespace orrery
