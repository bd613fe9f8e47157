#include "costmodel/experts/rank_loads.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <utility>

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
  double low = means[0] - reach * deviations[0], high = means[0];
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

ExpertDemand::ExpertDemand(std::span<const double> weights, std::int32_t k, const GroupLimit& limit)
    : per_token(k) {
  if (!limit.on()) {
    choice = NamedChoice(weights);
    inclusion = inclusion_probabilities(weights, k);
    return;
  }
  sample = sample_choices(weights, k, limit);
  inclusion = inclusion_of_sample(weights, k, limit.groups, sample);
}

LayerLoads::LayerLoads(std::shared_ptr<const ExpertDemand> demand, const ExpertPlacement& placement,
                       const ExchangeGroups& groups)
    : demand_(std::move(demand)), ranks_(static_cast<std::size_t>(placement.ranks)),
      slots_(static_cast<std::size_t>(placement.slots())), mean_(ranks_, 0.0), spread_(ranks_, 0.0),
      groups_(groups) {
  const std::vector<std::int32_t> replicas =
      placement.replicas(static_cast<std::int32_t>(demand_->inclusion.size()));
  const double all = static_cast<double>(ranks_ * slots_);
  for (std::size_t s = 0; s < placement.expert_of_slot.size(); ++s) {
    const auto e = static_cast<std::size_t>(placement.expert_of_slot[s]);
    const double q = demand_->inclusion[e] / replicas[e];
    slot_.push_back(q);
    rank_of_slot_.push_back(static_cast<std::uint16_t>(s / slots_));
    missed_.push_back(q >= 1 ? -1e3 : det_log1p(-q));
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
  if (demand_->grouped()) take_sample(placement, replicas);
  if (demand_->grouped() || !groups_.by_rank) return;
  const auto touched = [&](std::size_t first, std::size_t count) {  // ranks
    std::vector<double> share(replicas.size(), 0.0);
    for (std::size_t s = first * slots_; s < (first + count) * slots_; ++s) {
      const auto e = static_cast<std::size_t>(placement.expert_of_slot[s]);
      share[e] += 1.0 / replicas[e];
    }
    return touch_probability(demand_->inclusion, demand_->per_token, share);
  };
  for (std::size_t r = 0; r < ranks_; ++r) touched_.push_back(touched(r, 1));
  const auto of_node = static_cast<std::size_t>(groups_.ranks_of_node);
  for (std::size_t r = 0; r < ranks_; r += of_node)
    node_.push_back(touched(r, std::min(of_node, ranks_ - r)));
}

namespace {

// Of each expert the places (ranks, or nodes) that it has a share of, which its replicas there add up to.
std::vector<std::vector<std::pair<std::size_t, double>>> shares_of(const ExpertPlacement& placement,
                                                                   std::span<const std::int32_t> replicas,
                                                                   std::size_t slots_of_place) {
  std::vector<std::vector<std::pair<std::size_t, double>>> shares(replicas.size());
  for (std::size_t s = 0; s < placement.expert_of_slot.size(); ++s) {
    const auto e = static_cast<std::size_t>(placement.expert_of_slot[s]);
    const std::size_t place = s / slots_of_place;
    if (shares[e].empty() || shares[e].back().first != place) shares[e].push_back({place, 0.0});
    shares[e].back().second += 1.0 / replicas[e];
  }
  return shares;
}

// A variance within 3 %, 1.5 % of a deviation, which a balancer asks for with every new placement.
constexpr std::size_t tokens_for_variance = 4096;

// What tokens of the sample leave at each place: mean and mean square of rows, and how often it is any.
struct Tally {
  explicit Tally(std::size_t places) : mean(places, 0.0), square(places, 0.0), touched(places, 0.0) {}
  std::vector<double> mean, square, touched;
};
Tally tally(const ExpertDemand& demand, std::size_t tokens, std::size_t places,
            const std::vector<std::vector<std::pair<std::size_t, double>>>& shares) {
  Tally out(places);
  const auto k = static_cast<std::size_t>(demand.per_token);
  tokens = std::min(tokens, demand.sample.size() / k);
  const double one = 1 / static_cast<double>(tokens);
  std::vector<double> rows(places, 0.0), chance(places, 0.0), beside(places, 1.0);
  std::vector<std::size_t> met;
  for (std::size_t t = 0; t < tokens * k; t += k) {
    met.clear();
    for (std::size_t i = t; i < t + k; ++i) {
      for (const auto& [place, share] : shares[demand.sample[i]]) {
        if (rows[place] == 0) met.push_back(place);
        rows[place] += share;
        chance[place] += share * (1 - share);
        beside[place] *= 1 - std::min(share, 1.0);
      }
    }
    for (const std::size_t place : met) {
      out.mean[place] += one * rows[place];
      out.square[place] += one * (rows[place] * rows[place] + chance[place]);
      out.touched[place] += one * (1 - beside[place]);
      rows[place] = chance[place] = 0;
      beside[place] = 1;
    }
  }
  return out;
}

}  // namespace

// Rows that a token leaves on a rank have variance v = d − d²/Σd.
void LayerLoads::take_sample(const ExpertPlacement& placement, std::span<const std::int32_t> replicas) {
  const std::size_t tokens = groups_.by_rank ? SIZE_MAX : tokens_for_variance;
  const Tally ranks = tally(*demand_, tokens, ranks_, shares_of(placement, replicas, slots_));
  if (ranks_ > 1) {
    const auto sum = [&] { return std::accumulate(spread_.begin(), spread_.end(), 0.0); };
    const double plain = sum();
    std::vector<double> variance(ranks_);
    for (std::size_t r = 0; r < ranks_; ++r) {
      variance[r] = std::max(1e-12, ranks.square[r] - ranks.mean[r] * ranks.mean[r]);
      clumped_.push_back(spread_[r] > 0 ? variance[r] / (spread_[r] * (1 - spread_[r] / plain)) : 1.0);
    }
    for (int round = 0; round < 20; ++round) {
      const double all = sum();
      for (std::size_t r = 0; r < ranks_; ++r)
        spread_[r] = variance[r] / std::max(0.05, 1 - spread_[r] / all);
    }
  }
  if (!groups_.by_rank) return;
  touched_ = ranks.touched;
  const auto of_node = static_cast<std::size_t>(groups_.ranks_of_node);
  const std::size_t nodes = (ranks_ + of_node - 1) / of_node;
  node_ = tally(*demand_, tokens, nodes, shares_of(placement, replicas, slots_ * of_node)).touched;
}

// P(a slot has a row) = 1 − (1 − q)^T; slots of a rank count as independent but for their number being
// limited, which n/(n − 1) says for equal weights (costmodel/moe.h).
void LayerLoads::distinct_moments(double tokens, std::vector<double>& mean,
                                  std::vector<double>& variance) const {
  mean.assign(ranks_, 0.0);
  variance.assign(ranks_, 0.0);
  const double all = static_cast<double>(slot_.size());
  for (std::size_t s = 0; s < slot_.size(); ++s) {
    const double p = -det_expm1(tokens * missed_[s]);
    mean[s / slots_] += p;
    variance[s / slots_] += p * (1 - p) * (all > 1 ? all / (all - 1) : 1);
  }
  for (std::size_t r = 0; r < clumped_.size(); ++r) variance[r] *= clumped_[r];
}

double LayerLoads::most_rows(double tokens) const {
  return tokens * std::min(static_cast<double>(demand_->per_token), static_cast<double>(slots_));
}

double LayerLoads::uneven_tiles(double tokens) const {
  double most = 0, uneven = 0;
  for (std::size_t r = 0; r < ranks_; ++r) {
    double tiles = 0, rows = 0, distinct = 0;
    for (std::size_t s = r * slots_; s < (r + 1) * slots_; ++s) {
      const double m = tokens * slot_[s];
      const double p = -det_expm1(tokens * missed_[s]);
      tiles += std::max(p, m / groups_.tile_rows + p / 2);
      rows += m;
      distinct += p;
    }
    if (tiles <= most) continue;
    most = tiles;
    uneven = tiles - std::max(distinct, rows / groups_.tile_rows + distinct / 2);
  }
  return std::max(0.0, uneven);
}

void LayerLoads::add_touched(double tokens, RankLoad& load) const {
  if (groups_.tile_rows > 0) load.uneven_tiles = uneven_tiles(tokens);
  if (!groups_.by_rank) return;
  const auto most = [&](const std::vector<double>& probability) {
    std::vector<double> mean, deviation;
    for (const double h : probability) {
      mean.push_back(tokens * h);
      deviation.push_back(std::sqrt(tokens * h * (1 - h)));
    }
    return std::min(tokens, expected_maximum(mean, deviation));
  };
  load.received = most(touched_);
  load.at_node = most(node_);
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
  if (groups_.on()) add_touched(tokens, out);
  return out;
}

double LayerLoads::balancedness() const {
  double sum = 0;
  for (const double m : mean_) sum += m;
  return sum / static_cast<double>(ranks_) / *std::max_element(mean_.begin(), mean_.end());
}

}  // namespace orrery
