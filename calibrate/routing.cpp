#include "calibrate/routing.h"

#include <algorithm>

#include "base/check.h"
#include "base/det_math.h"
#include "base/random.h"

namespace orrery::calibrate {

namespace {

constexpr std::uint64_t seed = 20261125;
constexpr double zipf_exponent = 1.1;

// Cumulative weights of the experts; draws repeat until a token has top_k different ones.
std::vector<std::int64_t> drawn(const std::vector<double>& weights, std::int64_t top_k, std::int64_t tokens) {
  std::vector<double> cumulative;
  cumulative.reserve(weights.size());
  double total = 0;
  for (const double w : weights) cumulative.push_back(total += w);
  const auto entity =
      static_cast<std::uint64_t>(tokens) << 24 ^ weights.size() << 8 ^ static_cast<std::uint64_t>(top_k);
  RandomStream random(seed, RandomPurpose::expert_routing, entity);
  std::vector<std::int64_t> rows(weights.size(), 0), last_token(weights.size(), -1);
  for (std::int64_t token = 0; token < tokens; ++token) {
    for (std::int64_t chosen = 0; chosen < top_k;) {
      const double u = random.uniform() * total;
      const auto at = std::upper_bound(cumulative.begin(), cumulative.end() - 1, u) - cumulative.begin();
      const auto expert = static_cast<std::size_t>(at);
      if (last_token[expert] == token) continue;
      last_token[expert] = token;
      ++rows[expert];
      ++chosen;
    }
  }
  return rows;
}

}  // namespace

std::vector<std::int64_t> expert_rows(RowPattern pattern, std::int64_t experts, std::int64_t top_k,
                                      std::int64_t tokens) {
  ORRERY_CHECK(experts >= 1 && top_k >= 1 && top_k <= experts && tokens >= 0, "an impossible router");
  const auto count = static_cast<std::size_t>(experts);
  std::vector<std::int64_t> rows(count, 0);
  switch (pattern) {
    case RowPattern::routed: return drawn(std::vector<double>(count, 1), top_k, tokens);
    case RowPattern::zipf: {
      std::vector<double> weights;
      weights.reserve(count);
      for (std::size_t i = 0; i < count; ++i)
        weights.push_back(det_pow(static_cast<double>(i + 1), -zipf_exponent));
      return drawn(weights, top_k, tokens);
    }
    case RowPattern::balanced:
      for (std::int64_t e = 0; e < experts; ++e)
        rows[static_cast<std::size_t>(e)] = tokens * top_k / experts + (e < tokens * top_k % experts ? 1 : 0);
      return rows;
    case RowPattern::one_hot:
      std::fill(rows.begin(), rows.begin() + static_cast<std::ptrdiff_t>(top_k), tokens);
      return rows;
  }
  return rows;
}

}  // namespace orrery::calibrate
