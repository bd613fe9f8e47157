#include "sim/policies.h"

namespace orrery {
namespace {

class RoundRobin final : public Router {
 public:
  InstanceId choose(const Request&, std::span<const InstanceView> instances) override {
    for (std::size_t tried = 1; !instances[next_].open && tried < instances.size(); ++tried)
      next_ = (next_ + 1) % instances.size();
    const auto chosen = static_cast<std::uint32_t>(next_);
    next_ = (next_ + 1) % instances.size();
    return InstanceId(chosen);
  }

 private:
  std::size_t next_ = 0;
};

}  // namespace

std::unique_ptr<Router> make_round_robin(const RouterConfig&) { return std::make_unique<RoundRobin>(); }

}  // namespace orrery
