#include "sim/policies.h"

namespace orrery {
namespace {

// Fewest outstanding requests; among equals the lowest instance id.
class LeastLoaded final : public Router {
 public:
  InstanceId choose(const Request&, std::span<const InstanceView> instances) override {
    std::size_t best = 0;
    for (std::size_t i = 1; i < instances.size(); ++i) {
      if (!instances[i].open) continue;
      if (!instances[best].open || instances[i].outstanding < instances[best].outstanding) best = i;
    }
    return InstanceId(static_cast<std::uint32_t>(best));
  }
};

}  // namespace

std::unique_ptr<Router> make_least_loaded() { return std::make_unique<LeastLoaded>(); }

}  // namespace orrery
