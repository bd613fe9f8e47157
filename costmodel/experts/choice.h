// The law by which a token chooses k distinct experts: one after the other without replacement, each time in
// proportion to the weights of those left (Plackett-Luce; the same law as the k largest of log-weights with
// independent Gumbel noise). Real routers take the k largest of scores that a network computes: given the
// token nothing is random, and over tokens the scores are correlated. Plackett-Luce is the law with given
// popularity that assumes nothing else; what tokens of one topic have in common has to be in the popularity.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/random.h"

namespace orrery {

// Probability of each expert to be among the k of one token; sums to k. Weights > 0 of any scale, k ≥ 1, at
// most as many as there are. Exact up to quadrature: expert i rings at an exponential time of rate wᵢ, the
// first k to ring are chosen, and πᵢ = ∫ wᵢ·exp(−wᵢt)·P(at most k − 1 of the others rang by t) dt, which is a
// trapezoidal sum in log t, whose relative error is below 10⁻⁶ (tested against enumeration).
std::vector<double> inclusion_probabilities(std::span<const double> weights, std::int32_t k);

// The other way: weights under which experts are chosen in proportion to `counts` (all > 0), as measured
// histograms say. An expert in every token has no finite weight; shares are cut at 0.995 of the tokens.
// Relative error of the inclusion probabilities: below 10⁻⁴.
std::vector<double> weights_of_counts(std::span<const double> counts, std::int32_t k);

// Probability that at least one of a token's k rows falls to a group that gets `share[e]` of the rows of
// expert e: of the k-subsets that independent choices with these inclusion probabilities make, given that
// they are k (Hájek's rejective sampling). Exact for equal probabilities; for others against draws:
// tests/costmodel/ expert_rows_test.cpp.
double touch_probability(std::span<const double> inclusion, std::int32_t k, std::span<const double> share);

// Walker's alias table: place i of equally likely ones is its own with `keep`, else the other.
struct AliasTable {
  std::vector<double> weights, keep;  // weights: sum 1
  std::vector<std::int32_t> other;
};
AliasTable alias_table(std::span<const double> weights);

// Draws of k distinct experts: an alias table, repeats thrown away, which is the law above exactly.
class ExpertChoice {
 public:
  ExpertChoice() = default;
  explicit ExpertChoice(std::span<const double> weights);
  // Fills `out` with distinct experts in the order of choice.
  void draw(RandomStream& stream, std::span<std::int32_t> out) const;
  // One more beside those, which are not all.
  std::int32_t next(RandomStream& stream, std::span<const std::int32_t> chosen) const;

 private:
  AliasTable alias_;
};

// The stream of one token's choices in one layer: of the seed and of these names only, so that no plan, batch
// or order changes it.
RandomStream token_choices(std::uint64_t seed, std::uint64_t request, std::uint64_t token,
                           std::uint64_t layer);

}  // namespace orrery
