// How vLLM 0.24's front end chooses a data-parallel rank for a request (`DPLBAsyncMPClient`, v1/engine/
// core_client.py), and what it knows of the ranks (`DPCoordinatorProc`, v1/engine/coordinator.py).
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/time.h"
#include "sim/rank_scheduler.h"

namespace orrery {

struct RankCounts {
  std::int32_t waiting = 0, running = 0;
  friend bool operator==(const RankCounts&, const RankCounts&) = default;
};

// Collects the ranks' counts and publishes them to all front ends. Lazy: every call first publishes what was
// due until then. Times never decrease.
//   Its poll ends without a message after  max(50 ms, or 0 once a newer step has reported after a change;
//                                              100 ms after a change, else 5 s, since the last publication)
//   and then it publishes: the counts as they were before that newer step, else those of now.
// Here what is reported at one instant is one step's, messages take no time, and the last publication before
// the run fell on its start.
class StatsCoordinator {
 public:
  explicit StatsCoordinator(std::size_t ranks) : counts_(ranks), published_(ranks) {}
  void report(SimTime now, std::size_t rank, RankCounts counts);
  void advance(SimTime now);
  const std::vector<RankCounts>& published() const { return published_; }
  std::int64_t publications() const { return publications_; }

 private:
  SimTime due() const;

  std::vector<RankCounts> counts_, published_, before_newer_step_;
  bool changed_ = false, has_newer_step_ = false;
  SimTime last_message_ = SimTime::never(), last_publication_, poll_began_;
  std::int64_t publications_ = 0;
};

// The least of 4 · waiting + running over the last published counts, each plus what this client has sent
// since; the first of equals from the client's own start on. A client is an API server; they share requests
// by index. Requests are chosen in the order of their calls.
class VllmBalancer final : public RankBalancer {
 public:
  VllmBalancer(std::size_t ranks, std::size_t clients);
  void at(SimTime now) override;
  std::size_t choose(const Request& request) override;
  bool watches_counts() const override { return true; }
  void report(std::size_t rank, const SchedulerView& view) override;

 private:
  struct Client {
    std::vector<RankCounts> counts;
    std::int64_t seen = 0;  // publications
  };
  StatsCoordinator coordinator_;
  std::vector<RankCounts> reported_;
  std::vector<Client> clients_;
  SimTime now_;
};

}  // namespace orrery
