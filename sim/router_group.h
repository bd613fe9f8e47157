// Instances behind one router: those of all pools of one role, in the order of their numbers. A router counts
// its own instances from 0. The group also decides *when* the router learns of a change.
#pragma once

#include <algorithm>
#include <deque>
#include <memory>
#include <vector>

#include "sim/router.h"

namespace orrery {

// When a router learns what instances report. They report at every multiple of `period` (0: whenever
// something changes), and it arrives `delay` later. Both 0: it knows at once.
struct Telemetry {
  SimDuration period, delay;
  bool exact() const { return period.ns() == 0 && delay.ns() == 0; }
  // When a change at `now` is known; `after`: it came behind the instant's own report (Phase::telemetry).
  SimTime known(SimTime now, bool after) const;
};

// Where the loop stands in time, and whether the instant's telemetry has been taken.
struct TelemetryClock {
  SimTime now;
  bool taken = false;
};

class RouterGroup {
 public:
  void set_router(Router* router, Telemetry telemetry, const TelemetryClock* clock) {
    router_ = router;
    telemetry_ = telemetry;
    clock_ = clock;
  }
  bool has_router() const { return router_ != nullptr; }
  void add(InstanceId instance);
  bool empty() const { return members_.empty(); }
  std::size_t next_place() const { return members_.size(); }

  void set_outstanding(std::size_t place, std::int32_t outstanding) {
    if (telemetry_.exact()) {
      views_[place].outstanding = outstanding;
    } else if (reported_[place] != outstanding) {
      reported_[place] = outstanding;
      tell_later({.place = place, .outstanding = outstanding, .reach = {}});
    }
  }
  // Routers are told at once who may be chosen, and whose engine begins anew: the proxy itself finds out.
  void set_open(std::size_t place, bool open) { views_[place].open = open; }
  bool any_open() const {
    return std::any_of(views_.begin(), views_.end(), [](const InstanceView& view) { return view.open; });
  }
  void cache_lost(std::size_t place);
  // The one place that says who may be chosen: where a router's choice is closed, the next one that is open
  // takes its place. Precondition: any_open().
  InstanceId choose(const Request& request);

  // Where an instance says what passes between it and its clients, and what its cache holds; null where the
  // router does not listen.
  AnswerEvents* answers_of(std::size_t place);
  CacheEvents* cache_of(std::size_t place);

 private:
  struct Report {
    SimTime known = {};
    std::size_t place = 0;
    bool of_cache = false;
    std::int32_t outstanding = 0;
    Reach reach;
  };
  // One instance's way to the group.
  class Line final : public AnswerEvents, public CacheEvents {
   public:
    Line(RouterGroup& group, std::size_t place) : group_(group), place_(place) {}
    void first_token(RequestId request) override { group_.router_->first_token(request, place_); }
    void over(RequestId request, std::int32_t output_tokens) override {
      group_.router_->over(request, place_, output_tokens);
    }
    void holds(const Reach& reach) override;

   private:
    RouterGroup& group_;
    std::size_t place_;
  };

  Line* line(std::size_t place);
  void tell_later(Report report);
  void tell_until(SimTime now);

  Router* router_ = nullptr;
  Telemetry telemetry_;
  const TelemetryClock* clock_ = nullptr;
  std::vector<InstanceId> members_;
  std::vector<InstanceView> views_;
  std::vector<std::int32_t> reported_;  // outstanding requests, as last put on the way
  std::deque<Report> on_the_way_;       // oldest first, which is also the order in which they arrive
  std::vector<std::unique_ptr<Line>> lines_;
};

}  // namespace orrery
