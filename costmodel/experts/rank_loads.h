// What a batch of tokens leaves for the ranks of one layer: rows (token, expert) and experts with rows, of
// the rank that has most of each. Tokens choose independently of one another, given the popularity.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/random.h"
#include "costmodel/experts/balancer.h"
#include "costmodel/experts/grouped_choice.h"
#include "costmodel/experts/token_draws.h"

namespace orrery {

struct RankLoad {
  double rows = 0, distinct = 0;
  // Where rows are exchanged (ExchangeGroups): tokens with a row on the rank, and on the node, that has most
  // such; tiles of rows that a rank's experts fill beyond what equally many rows an expert would.
  double received = 0, at_node = 0, uneven_tiles = 0;
};

// What point-to-point kernels have to know of a batch beyond rows and experts (costmodel/expert_exchange.h).
struct ExchangeGroups {
  std::int32_t ranks_of_node = 0;  // 0 = rows are not exchanged
  bool by_rank = false;            // some kernels send a row for every distinct rank, and node
  double tile_rows = 0;            // of masked products; 0 = none
  bool on() const { return ranks_of_node > 0; }
};

// Expected largest of independent normals, E max = b − ∫_{−∞}^{b} ∏Φ: a trapezoidal sum, absolute error below
// 10⁻³ of the largest deviation.
double expected_maximum(std::span<const double> means, std::span<const double> deviations);

// What tokens ask of a layer, wherever its experts are.
struct ExpertDemand {
  ExpertDemand(std::span<const double> weights, std::int32_t k, const GroupLimit& limit = {});
  // What the token of this key (token_draws.h) chooses in a layer of this number. Under groups one of the
  // sample's choices: the law of one token within what a sample leaves open (2⁻¹⁴), at a hundredth of the
  // time.
  void draw(std::uint64_t key, std::uint64_t layer, std::span<std::uint16_t> out) const;
  std::int32_t per_token;
  std::vector<double> inclusion;  // of each expert, of one token
  NamedChoice choice;
  // Where groups of experts are chosen first: choices of tokens drawn from the law.
  std::vector<std::uint16_t> sample;
  bool grouped() const { return !sample.empty(); }
};

class LayerLoads {
 public:
  // A token's row for an expert with several replicas goes to each of them equally often.
  LayerLoads(std::span<const double> weights, std::int32_t per_token, const ExpertPlacement& placement,
             const ExchangeGroups& groups = {}, const GroupLimit& limit = {})
      : LayerLoads(std::make_shared<const ExpertDemand>(weights, per_token, limit), placement, groups) {}
  LayerLoads(std::shared_ptr<const ExpertDemand> demand, const ExpertPlacement& placement,
             const ExchangeGroups& groups = {});

  // Means over batches of the largest number of rows, and of experts with rows, on any rank. With one rank
  // exact. Else rank r has normal rows with mean T·μ_r, μ_r = Σ qᵢ over its slots (qᵢ = πᵢ ÷ replicas), and
  // covariances T·(D − d·dᵀ/Σd), d_r = Σ qᵢ(1 − qᵢ)·S/(S − 1) over its slots, S = all slots: the variances of
  // k distinct draws to first order (Hájek 1964), exact for equal weights. Σ over ranks is fixed: what they
  // deviate together is taken out.
  // Tokens with rows on a rank, or node, are binomial; of a drawn batch they deviate as the rank's rows do.
  // Where a router chooses groups first, experts of one come together: d_r is then what the sample's choices
  // say of the rank's variance, distinct experts vary as much more as rows do, and what is touched is
  // counted.
  RankLoad expected(double tokens) const;
  // One batch (drawn_loads.cpp): of the tokens with these keys what each chooses in the layer of this number,
  // of so many others the normals above, one a rank. Where an expert has replicas a token's name says which
  // (vLLM: its place in the batch). `uneven_tiles` is left to whoever knows its expectation.
  RankLoad sampled(std::uint64_t layer, std::span<const std::uint64_t> keys, std::int64_t others,
                   RandomStream& stream) const;

  // Mean rows of a rank over those of the rank with most, of many tokens: 1 = balanced.
  double balancedness() const;
  std::span<const double> mean_rows() const { return mean_; }  // of a token, by rank
  std::span<const double> inclusion() const { return demand_->inclusion; }
  const std::shared_ptr<const ExpertDemand>& demand() const { return demand_; }

 private:
  struct Counts;
  Counts count(std::uint64_t layer, std::span<const std::uint64_t> keys) const;
  void add_others(std::int64_t others, RandomStream& stream, Counts& counts) const;
  void distinct_moments(double tokens, std::vector<double>& mean, std::vector<double>& variance) const;
  double most_rows(double tokens) const;
  void take_sample(const ExpertPlacement& placement, std::span<const std::int32_t> replicas);
  // Of the slots of the rank where Σ max(p, m/B + p/2) is largest (m rows and P(a row) p of a slot, B rows of
  // a tile), that sum beyond the same of the slots' totals.
  double uneven_tiles(double tokens) const;
  void add_touched(double tokens, RankLoad& load) const;

  std::shared_ptr<const ExpertDemand> demand_;
  std::size_t ranks_, slots_;          // slots: of a rank
  std::vector<double> slot_;           // πᵢ ÷ replicas, by slot
  std::vector<double> mean_, spread_;  // by rank, of one token: μ and d
  std::vector<double> clumped_;        // by rank: variance over that of plain choice; empty: the same
  ExchangeGroups groups_;
  std::vector<double> touched_, node_;       // by rank and by node: probability that a token has a row there
  std::vector<std::int32_t> first_, where_;  // slots of expert e: where_[first_[e]] … where_[first_[e + 1] −
                                             // 1]
  std::vector<std::uint16_t> rank_of_slot_;
  std::vector<double> missed_;  // by slot: log of the chance that a token has no row there
};

}  // namespace orrery
