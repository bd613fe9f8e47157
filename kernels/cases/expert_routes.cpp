#include "kernels/cases/expert_routes.h"

#include "base/random.h"
#include "kernels/cases/case_support.h"
#include "kernels/peer_memory.h"

namespace orrery::kernels {

ExpertRoutes::ExpertRoutes(const CaseSpec& spec) : top_k_(spec.top_k), local_(spec.experts / spec.ranks) {
  for (std::int32_t r = 0; r < spec.ranks; ++r) {
    const std::uint64_t seed = spec.seed * 131 + static_cast<std::uint64_t>(r);
    std::vector<std::int32_t> chosen = draw_chosen(spec, seed);
    RandomStream random(seed, RandomPurpose::kernel_operands, 2);
    std::vector<float> weights;
    for (std::size_t i = 0; i < chosen.size(); ++i) weights.push_back(static_cast<float>(random.uniform()));
    std::int64_t tokens = spec.m;
    if (spec.fill != Fill::random) {
      tokens = r % 3 == 1 ? (spec.m + 1) / 2 : r % 3 == 2 ? 0 : spec.m;
      for (std::size_t i = 6; i < chosen.size(); i += 7) chosen[i] = -1;
    }
    tokens_.push_back(static_cast<std::int32_t>(tokens));
    chosen_.push_back(std::move(chosen));
    weights_.push_back(std::move(weights));
  }
}

std::vector<ExpertRoute> ExpertRoutes::of_expert(std::int64_t expert) const {
  std::vector<ExpertRoute> routes;
  for (std::size_t r = 0; r < tokens_.size(); ++r) {
    for (std::int64_t i = 0; i < tokens_[r] * top_k_; ++i) {
      if (chosen_[r][static_cast<std::size_t>(i)] != expert) continue;
      routes.push_back({static_cast<std::int32_t>(r), i / top_k_, i % top_k_});
    }
  }
  return routes;
}

std::int64_t ExpertRoutes::place(std::int32_t rank, std::int64_t token, std::int64_t expert) const {
  std::int64_t before = 0;
  for (const ExpertRoute& route : of_expert(expert)) {
    if (route.rank == rank && route.token == token) return before;
    ++before;
  }
  return -1;
}

std::vector<ExpertRoute> ExpertRoutes::of_owner(std::int32_t owner) const {
  std::vector<ExpertRoute> routes;
  for (std::size_t r = 0; r < tokens_.size(); ++r) {
    for (std::int64_t t = 0; t < tokens_[r]; ++t) {
      bool any = false;
      for (std::int64_t j = 0; j < top_k_; ++j) {
        const std::int32_t expert = chosen_[r][static_cast<std::size_t>(t * top_k_ + j)];
        any = any || (expert >= 0 && expert / local_ == owner);
      }
      if (any) routes.push_back({static_cast<std::int32_t>(r), t, 0});
    }
  }
  return routes;
}

bool good_exchange(const CaseSpec& spec) {
  return good_routing(spec) && spec.rows.empty() && spec.ranks >= peer_least_ranks &&
         spec.ranks <= peer_most_ranks && spec.experts % spec.ranks == 0;
}

}  // namespace orrery::kernels
