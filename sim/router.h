// Chooses the instance for a request.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "sim/request.h"

namespace orrery {

// What a router may know of an instance. Here the view is exact at the moment of routing; routers that are
// told late get dated snapshots from the issue that builds them.
struct InstanceView {
  std::int32_t outstanding = 0;  // requests routed there and not finished
  bool open = true;              // may be chosen: neither known to be down nor draining
};

class Router {
 public:
  virtual ~Router() = default;
  virtual InstanceId choose(const Request& request, std::span<const InstanceView> instances) = 0;
};

struct RouterPolicy {
  const char* name;
  const char* description;
  std::unique_ptr<Router> (*make)();
};
struct SchedulerPolicy;

}  // namespace orrery
