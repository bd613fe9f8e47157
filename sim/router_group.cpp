#include "sim/router_group.h"

#include "base/check.h"

namespace orrery {

SimTime Telemetry::known(SimTime now, bool after) const {
  if (period.ns() == 0) return now + delay;
  const std::int64_t begun = now.ns() / period.ns();
  const bool on_time = !after && begun * period.ns() == now.ns();
  return SimTime((on_time ? begun : begun + 1) * period.ns()) + delay;
}

void RouterGroup::add(InstanceId instance) {
  members_.push_back(instance);
  views_.emplace_back();
  reported_.push_back(0);
  lines_.emplace_back();
}

InstanceId RouterGroup::choose(const Request& request) {
  if (!telemetry_.exact()) tell_until(clock_->now);
  std::size_t chosen = router_->choose(request, views_).value();
  while (!views_[chosen].open) chosen = (chosen + 1) % views_.size();
  return members_[chosen];
}

void RouterGroup::tell_later(Report report) {
  tell_until(clock_->now);
  report.known = telemetry_.known(clock_->now, clock_->taken);
  on_the_way_.push_back(report);
}

void RouterGroup::tell_until(SimTime now) {
  for (; !on_the_way_.empty() && on_the_way_.front().known <= now; on_the_way_.pop_front()) {
    const Report& r = on_the_way_.front();
    if (r.of_cache)
      router_->cache_holds(r.place, r.reach);
    else
      views_[r.place].outstanding = r.outstanding;
  }
}

void RouterGroup::cache_lost(std::size_t place) {
  std::erase_if(on_the_way_, [&](const Report& r) { return r.of_cache && r.place == place; });
  router_->cache_lost(place);
}

RouterGroup::Line* RouterGroup::line(std::size_t place) {
  if (lines_[place] == nullptr) lines_[place] = std::make_unique<Line>(*this, place);
  return lines_[place].get();
}

AnswerEvents* RouterGroup::answers_of(std::size_t place) {
  return router_ != nullptr && router_->watches_answers() ? line(place) : nullptr;
}

CacheEvents* RouterGroup::cache_of(std::size_t place) {
  return router_ != nullptr && router_->watches_caches() ? line(place) : nullptr;
}

void RouterGroup::Line::holds(const Reach& reach) {
  if (group_.telemetry_.exact()) return group_.router_->cache_holds(place_, reach);
  group_.tell_later({.place = place_, .of_cache = true, .reach = reach});
}

}  // namespace orrery
