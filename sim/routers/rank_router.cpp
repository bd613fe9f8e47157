#include "sim/routers/rank_router.h"

namespace orrery {

RankRouter::RankRouter(std::unique_ptr<Router> between, std::size_t deployments, std::size_t ranks,
                       std::size_t clients)
    : between_(std::move(between)), ranks_(ranks), balancers_(deployments, VllmBalancer(ranks, clients)),
      deployments_(deployments) {}

InstanceId RankRouter::choose(const Request& request, std::span<const InstanceView> engines) {
  for (std::size_t d = 0; d < deployments_.size(); ++d) {
    deployments_[d] = {.outstanding = 0, .open = false};
    for (const InstanceView& engine : engines.subspan(d * ranks_, ranks_)) {
      deployments_[d].outstanding += engine.outstanding;
      deployments_[d].open |= engine.open;
    }
  }
  const std::size_t chosen = between_->choose(request, deployments_).value();
  balancers_[chosen].at(request.arrival);
  // A dead engine's turns go to the next one of its deployment.
  std::size_t rank = balancers_[chosen].choose(request);
  for (std::size_t tried = 1; !engines[chosen * ranks_ + rank].open && tried < ranks_; ++tried)
    rank = (rank + 1) % ranks_;
  return InstanceId(static_cast<std::uint32_t>(chosen * ranks_ + rank));
}

}  // namespace orrery
