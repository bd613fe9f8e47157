// Which experts the tokens of every rank chose, and in what order their rows arrive: what both forms of the
// exchange are checked against. Drawn from the spec alone, so that every rank draws the same.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/kernel_case.h"

namespace orrery::kernels {

struct ExpertRoute {
  std::int32_t rank = 0;
  std::int64_t token = 0, choice = 0;
};

class ExpertRoutes {
 public:
  // m tokens a rank, every second rank fewer and the third none, but all alike where the fill is random (for
  // timing); with other fills some choices are nobody's (−1).
  explicit ExpertRoutes(const CaseSpec& spec);

  std::int32_t tokens(std::int32_t rank) const { return tokens_[static_cast<std::size_t>(rank)]; }
  const std::vector<std::int32_t>& chosen(std::int32_t rank) const {  // m × top_k; behind the tokens:
                                                                      // anything
    return chosen_[static_cast<std::size_t>(rank)];
  }
  const std::vector<float>& weights(std::int32_t rank) const {
    return weights_[static_cast<std::size_t>(rank)];
  }

  std::vector<ExpertRoute> of_expert(std::int64_t expert) const;  // in order of rank and token
  std::int64_t place(std::int32_t rank, std::int64_t token, std::int64_t expert) const;  // in that order
  // The distinct (rank, token) with an expert of the owner, in order; choice is 0.
  std::vector<ExpertRoute> of_owner(std::int32_t owner) const;

 private:
  std::int64_t top_k_, local_;
  std::vector<std::int32_t> tokens_;
  std::vector<std::vector<std::int32_t>> chosen_;
  std::vector<std::vector<float>> weights_;
};

// Of m, top_k, experts and ranks.
bool good_exchange(const CaseSpec& spec);

}  // namespace orrery::kernels
