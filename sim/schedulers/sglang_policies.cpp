// The less usual orders of the queue (managers/schedule_policy.py of 0.5.23: `_sort_by_dfs_weight`,
// `_sort_randomly`, `_sort_by_hrrn`, `_sort_by_routing_key`), and the look-up that cache-aware ones begin
// with.
#include <algorithm>
#include <limits>
#include <map>
#include <tuple>

#include "base/random.h"
#include "sim/schedulers/sglang.h"

namespace orrery {

// RadixCache.create_simulated
RadixCache SglangScheduler::simulated_tree() { return RadixCache({.tokens = std::int64_t{1} << 60}); }

// `_compute_prefix_matches`: what device and host memory have of it, where that ends on the device, and
// whether somebody ahead in the queue will bring it: of several with the same uncached prefix all but the
// first wait for it to be cached.
bool SglangScheduler::find_prefix(Sequence& s, RadixCache& queue, RadixCache::Node& node) {
  constexpr std::int64_t in_batch_threshold = 32;  // IN_BATCH_PREFIX_CACHING_*_THRESHOLD
  const std::int64_t length = key_length(s.input());
  const RadixCache::Match hit = cache_.match(s.content, length);
  node = hit.node;
  s.prefix = std::min(hit.tokens + hit.on_host, s.input() - 1);  // num_matched_prefix_tokens
  if (hit.tokens > in_batch_threshold) return false;
  if (queue.match(s.content, length).tokens >= in_batch_threshold) return true;
  queue.take(length);
  queue.insert(s.content, length, {});
  return false;
}

// Depth first, at every node the child first in whose subtree most of the queue ends.
void SglangScheduler::sort_by_weight() {
  RadixCache queue = simulated_tree();
  std::vector<RadixCache::Node> ends(waiting_.size());
  for (std::size_t i = 0; i < waiting_.size(); ++i) find_prefix(sequences_[waiting_[i]], queue, ends[i]);
  // A later look-up may have split the node that an earlier one found; its end stays where it was.
  std::vector<Slot> sorted;
  for (const std::size_t i : cache_.weight_order(ends)) sorted.push_back(waiting_[i]);
  waiting_.assign(sorted.begin(), sorted.end());
}

// `random.shuffle`; the draws are a stream of the run's, the attempt's and whoever is first.
void SglangScheduler::sort_randomly() {
  if (waiting_.empty()) return;
  const std::uint64_t first = sequences_[waiting_.front()].request.value();
  RandomStream draws(config_.seed, RandomPurpose::queue_order, (shuffles_++ << 32) ^ first);
  for (std::size_t i = waiting_.size(); i-- > 1;) std::swap(waiting_[i], waiting_[draws.below(i + 1)]);
}

// The highest response ratio next: prefill tokens that the engine has computed since the request came, by
// what its prompt lacks. The engine settles ties by the request's name, which says nothing; here by number.
void SglangScheduler::sort_by_response_ratio() {
  constexpr double never = std::numeric_limits<double>::infinity();
  RadixCache queue = simulated_tree();
  std::vector<std::tuple<double, std::uint64_t, Slot>> ranks;
  for (const Slot slot : waiting_) {
    Sequence& s = sequences_[slot];
    RadixCache::Node node;
    const bool later = find_prefix(s, queue, node);
    const std::int64_t uncached = std::int64_t{s.prompt} - s.prefix;
    const std::int64_t waited = prefilled_tokens_ - s.queued_at_tokens;
    const double key = later           ? never
                       : uncached <= 0 ? -never
                                       : -static_cast<double>(waited) / static_cast<double>(uncached);
    ranks.emplace_back(key, s.request.value(), slot);
  }
  std::sort(ranks.begin(), ranks.end());
  for (std::size_t i = 0; i < ranks.size(); ++i) waiting_[i] = std::get<Slot>(ranks[i]);
}

// Who shares its key with the most of the running batch; then by key. A request's key is its session, which
// clients put into `x-smg-routing-key`; without one it is behind.
void SglangScheduler::sort_by_routing_key() {
  std::map<std::uint64_t, std::int64_t> running;
  for (const Slot slot : running_in_order()) {
    if (const std::uint64_t key = sequences_[slot].routing_key; key != 0) ++running[key];
  }
  if (running.empty()) return;
  const auto rank = [&](Slot slot) {
    const std::uint64_t key = sequences_[slot].routing_key;
    const auto found = running.find(key);
    const bool runs = found != running.end();
    return std::tuple(!runs, runs ? -found->second : 0, key);
  };
  std::stable_sort(waiting_.begin(), waiting_.end(), [&](Slot a, Slot b) { return rank(a) < rank(b); });
}

}  // namespace orrery
