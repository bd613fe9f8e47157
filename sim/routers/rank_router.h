// Routes to engines that are the ranks of a data-parallel deployment of a model without experts (vLLM): they
// share a front end and nothing else. Engine e is rank e modulo ranks of its deployment.
#pragma once

#include <memory>
#include <vector>

#include "sim/router.h"
#include "sim/vllm_balancer.h"

namespace orrery {

// `between` chooses the deployment, by the requests that are outstanding on all of its ranks. Its front end
// then chooses the rank as vLLM's does. But only the engines of models with experts report their counts
// (`_maybe_publish_request_counts` is DPEngineCoreProc's): a front end knows what it has sent, and every 5 s
// the coordinator tells it that nobody has anything. So requests go to each rank in turn, and begin again
// with the first rank every 5 s. (The first 5 s end 5 s into the run.)
class RankRouter final : public Router {
 public:
  RankRouter(std::unique_ptr<Router> between, std::size_t deployments, std::size_t ranks,
             std::size_t clients);
  InstanceId choose(const Request& request, std::span<const InstanceView> engines) override;

 private:
  std::unique_ptr<Router> between_;
  std::size_t ranks_;
  std::vector<VllmBalancer> balancers_;
  std::vector<InstanceView> deployments_;
};

}  // namespace orrery
