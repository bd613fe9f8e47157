#include "sim/vllm_balancer.h"

#include <algorithm>

#include "base/mutation.h"

namespace orrery {

namespace {

constexpr SimDuration milliseconds(std::int64_t ms) { return SimDuration(ms * 1'000'000); }
constexpr SimDuration quiet = milliseconds(50), after_change = milliseconds(100),
                      without = milliseconds(5000);

}  // namespace

SimTime StatsCoordinator::due() const {
  const SimTime least = has_newer_step_ ? poll_began_ : poll_began_ + quiet;
  return later(least, last_publication_ + (changed_ ? after_change : without));
}

void StatsCoordinator::advance(SimTime now) {
  for (SimTime at = due(); at <= now; at = due()) {
    published_ = has_newer_step_ ? before_newer_step_ : counts_;
    if (!has_newer_step_) changed_ = false;
    has_newer_step_ = false;
    last_publication_ = poll_began_ = at;
    ++publications_;
  }
}

void StatsCoordinator::report(SimTime now, std::size_t rank, RankCounts counts) {
  advance(now);
  poll_began_ = now;
  const bool newer = last_message_.is_never() || now > last_message_;
  if (newer && changed_) {
    before_newer_step_ = counts_;
    has_newer_step_ = true;
  }
  last_message_ = now;
  counts_[rank] = counts;
  changed_ = true;
}

VllmBalancer::VllmBalancer(std::size_t ranks, std::size_t clients)
    : coordinator_(ranks), reported_(ranks), clients_(clients, Client{std::vector<RankCounts>(ranks)}) {}

void VllmBalancer::at(SimTime now) { now_ = later(now_, now); }

std::size_t VllmBalancer::choose(const Request& request) {
  coordinator_.advance(now_);
  const std::size_t index = request.id.value() % clients_.size(), ranks = reported_.size();
  Client& client = clients_[index];
  if (client.seen != coordinator_.publications()) client.counts = coordinator_.published();
  client.seen = coordinator_.publications();
  const std::size_t start = ranks * index / clients_.size();
  const auto score = [&](std::size_t rank) {
    const RankCounts& c = client.counts[rank];
    return (ORRERY_MUTANT(waiting_counts_as_running) ? 1 : 4) * std::int64_t{c.waiting} + c.running;
  };
  std::size_t best = start;
  for (std::size_t i = 1; i < ranks; ++i) {
    const std::size_t rank = (start + i) % ranks;
    if (score(rank) < score(best)) best = rank;
  }
  client.counts[best].waiting += static_cast<std::int32_t>(clients_.size());
  return best;
}

void VllmBalancer::report(std::size_t rank, const SchedulerView& view) {
  const RankCounts counts{view.waiting, view.running};
  if (counts == reported_[rank]) return;
  reported_[rank] = counts;
  coordinator_.report(now_, rank, counts);
}

}  // namespace orrery
