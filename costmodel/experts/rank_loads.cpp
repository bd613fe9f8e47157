#include "costmodel/experts/rank_loads.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/check.h"
#include "base/det_math.h"

namespace orrery {

namespace {

// Φ(x), absolute error below 7.5·10⁻⁸ (Abramowitz and Stegun 26.2.17).
double normal_below(double x) {
  if (x < -8) return 0;
  if (x > 8) return 1;
  const double t = 1 / (1 + 0.2316419 * std::abs(x));
  const double tail =
      0.3989422804014327 * det_exp(-x * x / 2) * t *
      (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return x > 0 ? 1 - tail : tail;
}

}  // namespace

double expected_maximum(std::span<const double> means, std::span<const double> deviations) {
  constexpr double reach = 6;
  constexpr int nodes = 64;
  double low = means[0], high = means[0];
  for (std::size_t i = 0; i < means.size(); ++i) {
    low = std::max(low, means[i] - reach * deviations[i]);
    high = std::max(high, means[i] + reach * deviations[i]);
  }
  if (!(high > low)) return high;
  const double step = (high - low) / nodes;
  double integral = 0;
  for (int n = 0; n <= nodes; ++n) {
    const double x = low + step * n;
    double product = n == 0 || n == nodes ? 0.5 : 1;
    for (std::size_t i = 0; i < means.size() && product > 1e-12; ++i) {
      if (deviations[i] > 0) {
        const double z = (x - means[i]) / deviations[i];
        if (z < reach) product *= normal_below(z);
      } else if (x < means[i]) {
        product = 0;
      }
    }
    integral += product;
  }
  return high - step * integral;
}

LayerLoads::LayerLoads(std::shared_ptr<const ExpertDemand> demand, const ExpertPlacement& placement)
    : demand_(std::move(demand)), ranks_(static_cast<std::size_t>(placement.ranks)),
      slots_(static_cast<std::size_t>(placement.slots())), mean_(ranks_, 0.0), spread_(ranks_, 0.0) {
  const std::vector<std::int32_t> replicas =
      placement.replicas(static_cast<std::int32_t>(demand_->inclusion.size()));
  const double all = static_cast<double>(ranks_ * slots_);
  for (std::size_t s = 0; s < placement.expert_of_slot.size(); ++s) {
    const auto e = static_cast<std::size_t>(placement.expert_of_slot[s]);
    const double q = demand_->inclusion[e] / replicas[e];
    slot_.push_back(q);
    mean_[s / slots_] += q;
    spread_[s / slots_] += q * (1 - q) * (all > 1 ? all / (all - 1) : 1);
  }
  first_.push_back(0);
  for (const std::int32_t count : replicas) first_.push_back(first_.back() + count);
  where_.resize(placement.expert_of_slot.size());
  std::vector<std::int32_t> next(first_.begin(), first_.end() - 1);
  for (std::size_t s = 0; s < placement.expert_of_slot.size(); ++s) {
    const auto e = static_cast<std::size_t>(placement.expert_of_slot[s]);
    where_[static_cast<std::size_t>(next[e]++)] = static_cast<std::int32_t>(s);
  }
}

// P(a slot has a row) = 1 − (1 − q)^T; slots of a rank count as independent but for their number being
// limited, which n/(n − 1) says for equal weights (costmodel/moe.h).
void LayerLoads::distinct_moments(double tokens, std::vector<double>& mean,
                                  std::vector<double>& variance) const {
  mean.assign(ranks_, 0.0);
  variance.assign(ranks_, 0.0);
  const double all = static_cast<double>(slot_.size());
  for (std::size_t s = 0; s < slot_.size(); ++s) {
    const double p = slot_[s] >= 1 ? 1.0 : -det_expm1(tokens * det_log1p(-slot_[s]));
    mean[s / slots_] += p;
    variance[s / slots_] += p * (1 - p) * (all > 1 ? all / (all - 1) : 1);
  }
}

double LayerLoads::most_rows(double tokens) const {
  return tokens * std::min(static_cast<double>(demand_->per_token), static_cast<double>(slots_));
}

RankLoad LayerLoads::expected(double tokens) const {
  std::vector<double> mean, deviation;
  distinct_moments(tokens, mean, deviation);
  if (ranks_ == 1) return {tokens * demand_->per_token, mean[0]};
  for (double& v : deviation) v = std::sqrt(v);
  RankLoad out;
  double distinct = 0;
  for (const double m : mean) distinct += m;
  out.distinct = std::min({expected_maximum(mean, deviation), static_cast<double>(slots_), distinct});
  for (std::size_t r = 0; r < ranks_; ++r) {
    mean[r] = tokens * mean_[r];
    deviation[r] = std::sqrt(tokens * spread_[r]);
  }
  out.rows = std::min(expected_maximum(mean, deviation), most_rows(tokens));
  return out;
}

RankLoad LayerLoads::counted_batch(std::int64_t tokens, RandomStream& stream) const {
  std::vector<std::int32_t> rows(ranks_, 0), distinct(ranks_, 0);
  std::vector<bool> touched(slot_.size(), false);
  std::array<std::int32_t, 64> chosen{};
  ORRERY_CHECK(static_cast<std::size_t>(demand_->per_token) <= chosen.size(), "experts of a token");
  const std::span<std::int32_t> mine(chosen.data(), static_cast<std::size_t>(demand_->per_token));
  for (std::int64_t t = 0; t < tokens; ++t) {
    demand_->choice.draw(stream, mine);
    for (const std::int32_t expert : mine) {
      const auto e = static_cast<std::size_t>(expert);
      const auto count = static_cast<std::int64_t>(first_[e + 1] - first_[e]);
      // Replicas take tokens in turn (vLLM: by the token's place in the batch).
      const std::size_t slot =
          static_cast<std::size_t>(where_[static_cast<std::size_t>(first_[e] + (count > 1 ? t % count : 0))]);
      ++rows[slot / slots_];
      if (!touched[slot]) ++distinct[slot / slots_];
      touched[slot] = true;
    }
  }
  return {static_cast<double>(*std::max_element(rows.begin(), rows.end())),
          static_cast<double>(*std::max_element(distinct.begin(), distinct.end()))};
}

RankLoad LayerLoads::sampled(std::int64_t tokens, RandomStream& stream) const {
  if (tokens <= counted) return counted_batch(tokens, stream);
  const double t = static_cast<double>(tokens);
  std::vector<double> mean, variance, deviates(ranks_);
  distinct_moments(t, mean, variance);
  RankLoad out;
  double touched = 0;
  for (std::size_t r = 0; r < ranks_; ++r) {
    touched += mean[r];
    out.distinct = std::max(out.distinct, mean[r] + std::sqrt(variance[r]) * stream.normal());
  }
  out.distinct = std::min({out.distinct, static_cast<double>(slots_), touched});
  if (ranks_ == 1) return {t * demand_->per_token, out.distinct};
  double together = 0, spread = 0;
  for (std::size_t r = 0; r < ranks_; ++r) {
    deviates[r] = std::sqrt(t * spread_[r]) * stream.normal();
    together += deviates[r];
    spread += spread_[r];
  }
  for (std::size_t r = 0; r < ranks_; ++r)
    out.rows = std::max(out.rows, t * mean_[r] + deviates[r] - spread_[r] / spread * together);
  out.rows = std::min(out.rows, most_rows(t));
  return out;
}

double LayerLoads::balancedness() const {
  double sum = 0;
  for (const double m : mean_) sum += m;
  return sum / static_cast<double>(ranks_) / *std::max_element(mean_.begin(), mean_.end());
}

}  // namespace orrery
