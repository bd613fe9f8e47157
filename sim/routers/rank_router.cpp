#include "sim/routers/rank_router.h"

namespace orrery {

RankRouter::RankRouter(std::unique_ptr<Router> between, std::size_t deployments, std::size_t ranks,
                       std::size_t clients)
    : between_(std::move(between)), ranks_(ranks), balancers_(deployments, VllmBalancer(ranks, clients)),
      deployments_(deployments) {}

InstanceId RankRouter::choose(const Request& request, std::span<const InstanceView> engines) {
  for (std::size_t d = 0; d < deployments_.size(); ++d) {
    deployments_[d] = {};
    for (const InstanceView& engine : engines.subspan(d * ranks_, ranks_))
      deployments_[d].outstanding += engine.outstanding;
  }
  const std::size_t chosen = between_->choose(request, deployments_).value();
  balancers_[chosen].at(request.arrival);
  return InstanceId(static_cast<std::uint32_t>(chosen * ranks_ + balancers_[chosen].choose(request)));
}

}  // namespace orrery
