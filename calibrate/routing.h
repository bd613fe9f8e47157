// How many rows each expert gets: the patterns that a grouped GEMM is measured on.
#pragma once

#include <cstdint>
#include <vector>

namespace orrery::calibrate {

enum class RowPattern : std::uint8_t {
  routed,    // each token chooses top_k distinct experts, all equally likely: what a fresh router does
  balanced,  // as even as whole rows allow
  zipf,      // likely in proportion to rank^−1.1: a skewed router
  one_hot,   // every token chooses the same experts
};

// Rows of `experts` experts for `tokens` tokens with `top_k` choices each; sums to tokens · top_k. Draws are
// named by (experts, top_k, tokens), so a pattern is the same in every plan.
std::vector<std::int64_t> expert_rows(RowPattern pattern, std::int64_t experts, std::int64_t top_k,
                                      std::int64_t tokens);

}  // namespace orrery::calibrate
