#include "sim/routers/least_loaded.h"

#include "sim/policies.h"

namespace orrery {
namespace {

class LeastLoaded final : public Router {
 public:
  explicit LeastLoaded(const RouterConfig& config) : config_(config) {}
  InstanceId choose(const Request&, std::span<const InstanceView> instances) override {
    return InstanceId(static_cast<std::uint32_t>(least_loaded(instances, config_)));
  }

 private:
  RouterConfig config_;
};

}  // namespace

std::unique_ptr<Router> make_least_loaded(const RouterConfig& config) {
  return std::make_unique<LeastLoaded>(config);
}

}  // namespace orrery
