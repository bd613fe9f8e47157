// Instances behind one router: those of all pools of one role, in the order of their numbers. A router counts
// its own instances from 0.
#pragma once

#include <algorithm>
#include <vector>

#include "sim/router.h"

namespace orrery {

class RouterGroup {
 public:
  void set_router(Router* router) { router_ = router; }
  bool has_router() const { return router_ != nullptr; }
  void add(InstanceId instance) {
    members_.push_back(instance);
    views_.emplace_back();
  }
  bool empty() const { return members_.empty(); }
  std::size_t next_place() const { return members_.size(); }
  InstanceView& view(std::size_t place) { return views_[place]; }
  bool any_open() const {
    return std::any_of(views_.begin(), views_.end(), [](const InstanceView& view) { return view.open; });
  }
  // The one place that says who may be chosen: where a router's choice is closed, the next one that is open
  // takes its place. Precondition: any_open().
  InstanceId choose(const Request& request) {
    std::size_t chosen = router_->choose(request, views_).value();
    while (!views_[chosen].open) chosen = (chosen + 1) % views_.size();
    return members_[chosen];
  }

 private:
  Router* router_ = nullptr;
  std::vector<InstanceId> members_;
  std::vector<InstanceView> views_;
};

}  // namespace orrery
