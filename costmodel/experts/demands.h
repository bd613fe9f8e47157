// Demands under a group limit take a sample each (grouped_choice.h), which pricers, runs and repeated runs of
// one deployment share.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "costmodel/experts/rank_loads.h"

namespace orrery {

class ExpertDemands {
 public:
  // For any thread. Of one model: the same k and limit each time.
  std::shared_ptr<const ExpertDemand> of(const std::vector<double>& weights, std::int32_t k,
                                         const GroupLimit& limit);
  // weights_of_counts under the limit.
  std::vector<double> weights(const std::vector<double>& counts, std::int32_t k, const GroupLimit& limit);

 private:
  static constexpr std::size_t most = 256;  // a quarter of a megabyte each; then all are forgotten
  std::mutex mutex_;
  std::map<std::vector<double>, std::shared_ptr<const ExpertDemand>> known_;
  std::map<std::vector<double>, std::vector<double>> fitted_;  // by counts
};

}  // namespace orrery
