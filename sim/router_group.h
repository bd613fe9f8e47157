// Instances behind one router: those of all pools of one role, in the order of their numbers. A router counts
// its own instances from 0.
#pragma once

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
  InstanceId choose(const Request& request) { return members_[router_->choose(request, views_).value()]; }

 private:
  Router* router_ = nullptr;
  std::vector<InstanceId> members_;
  std::vector<InstanceView> views_;
};

}  // namespace orrery
