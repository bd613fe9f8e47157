#include "costmodel/experts/demands.h"

#include "costmodel/experts/popularity.h"

namespace orrery {

std::shared_ptr<const ExpertDemand> ExpertDemands::of(const std::vector<double>& weights, std::int32_t k,
                                                      const GroupLimit& limit) {
  const std::lock_guard lock(mutex_);
  if (const auto it = known_.find(weights); it != known_.end()) return it->second;
  if (known_.size() == most) known_.clear();
  return known_[weights] = std::make_shared<const ExpertDemand>(weights, k, limit);
}

std::vector<double> ExpertDemands::weights(const std::vector<double>& counts, std::int32_t k,
                                           const GroupLimit& limit) {
  const std::lock_guard lock(mutex_);
  const auto [it, is_new] = fitted_.try_emplace(counts);
  if (is_new) it->second = weights_of_counts(counts, k, limit);
  return it->second;
}

std::shared_ptr<const ExpertDemand> ExpertPopularity::demand(std::int32_t layer, std::int64_t epoch) const {
  const std::vector<double> w = weights(layer, epoch);
  if (spec_.demands != nullptr) return spec_.demands->of(w, per_token_, spec_.limit);
  return std::make_shared<const ExpertDemand>(w, per_token_, spec_.limit);
}

}  // namespace orrery
