#include "costmodel/moe.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/det_math.h"

namespace orrery {

namespace {

// Expected largest of 2^i independent standard normals (H. L. Harter, Biometrika 48, 1961); beyond the last
// one another 0.25 for each doubling, which is above the true growth.
constexpr std::array largest_normal{0.0, 0.5642, 1.0294, 1.4236, 1.7660, 2.0697, 2.3437, 2.5946};

double expected_largest_normal(double count) {
  const double octaves = det_log(count) / det_log(2.0);
  const auto last = static_cast<double>(largest_normal.size() - 1);
  if (octaves >= last) return largest_normal.back() + 0.25 * (octaves - last);
  const auto i = static_cast<std::size_t>(octaves);
  const double part = octaves - static_cast<double>(i);
  return part <= 0 ? largest_normal[i]
                   : largest_normal[i] + part * (largest_normal[i + 1] - largest_normal[i]);
}

}  // namespace

double expected_distinct_experts(double experts, double per_token, double tokens) {
  if (per_token >= experts) return experts;
  // 1 − (1 − k/E)^T = −expm1(T·log1p(−k/E)), exact for large E as well.
  return -experts * det_expm1(tokens * det_log1p(-per_token / experts));
}

ExpertShare expected_slowest_rank(double experts, double per_token, double tokens, double ranks) {
  const double distinct = expected_distinct_experts(experts, per_token, tokens);
  if (ranks <= 1) return {tokens * per_token, distinct};
  const double largest = expected_largest_normal(ranks), held = experts / ranks;
  const double row_variance = tokens * per_token / ranks * (experts - per_token) / (experts - 1);
  const double p = distinct / experts;
  const double distinct_variance = held * p * (1 - p) * experts / (experts - 1);
  return {std::min(tokens * per_token / ranks + largest * std::sqrt(row_variance),
                   tokens * std::min(per_token, held)),
          std::min(distinct / ranks + largest * std::sqrt(distinct_variance), std::min(held, distinct))};
}

double expected_most_touched(double groups, double distinct, double tokens) {
  const double touched = distinct / groups;
  return std::min(tokens, tokens * touched +
                              expected_largest_normal(groups) * std::sqrt(tokens * touched * (1 - touched)));
}

std::int64_t moe_block_rows(std::int64_t tokens) { return tokens <= 64 ? 16 : 64; }

double expected_row_tiles(double distinct, double rows, std::int64_t block_rows) {
  return std::max(distinct, rows / static_cast<double>(block_rows) + distinct / 2);
}

}  // namespace orrery
