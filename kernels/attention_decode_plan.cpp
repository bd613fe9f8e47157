#include <algorithm>

#include "kernels/attention_decode.h"

namespace orrery::kernels {

namespace {

// What a piece costs beyond its tokens, in tokens: filling its pipeline, merging its warps.
constexpr std::int64_t piece_overhead = 96;
// Blocks of threads that a compute unit holds at once: shared memory allows two.
constexpr std::int64_t resident = 2;

std::int64_t pieces_of(std::int64_t context, std::int64_t tokens) { return (context + tokens - 1) / tokens; }

std::int64_t cost(const std::vector<std::int64_t>& contexts, std::int64_t across, std::int64_t at_once,
                  std::int64_t tokens) {
  std::int64_t pieces = 0, most = 0, longest = 0;
  for (const std::int64_t context : contexts) {
    pieces += pieces_of(context, tokens);
    most = std::max(most, pieces_of(context, tokens));
    longest = std::max(longest, std::min(context, tokens));
  }
  const std::int64_t waves = (pieces * across + at_once - 1) / at_once;
  const std::int64_t merging = most > 1 ? 128 + 2 * most : 0;
  return waves * (longest + piece_overhead) + merging;
}

}  // namespace

DecodePlan plan_attention_decode(const std::vector<std::int64_t>& contexts, std::int64_t heads,
                                 std::int64_t kv_heads, std::int64_t compute_units) {
  const std::int64_t across = kv_heads * ((heads / kv_heads + 15) / 16), at_once = resident * compute_units;
  std::int64_t longest = 1;
  for (const std::int64_t context : contexts) longest = std::max(longest, context);
  std::int64_t best = longest, best_cost = cost(contexts, across, at_once, longest);
  for (std::int64_t tokens = 64; tokens < longest;
       tokens += std::max<std::int64_t>(64, tokens / 8 / 64 * 64)) {
    const std::int64_t of_this = cost(contexts, across, at_once, tokens);
    if (of_this < best_cost) {
      best = tokens;
      best_cost = of_this;
    }
  }
  DecodePlan plan;
  plan.tokens_per_piece = static_cast<std::int32_t>(best);
  for (std::size_t s = 0; s < contexts.size(); ++s) {
    const std::int64_t context = contexts[s], count = pieces_of(context, best);
    if (context <= 0) continue;
    const std::int64_t each = ((context + count - 1) / count + 15) / 16 * 16,
                       pieces = pieces_of(context, each);
    if (pieces > 1) {
      plan.merges.push_back({static_cast<std::int32_t>(s), plan.slots, static_cast<std::int32_t>(pieces)});
    }
    for (std::int64_t i = 0; i < pieces; ++i) {
      const std::int64_t end = std::min(context, (i + 1) * each);
      plan.pieces.push_back({static_cast<std::int32_t>(s), static_cast<std::int32_t>(i * each),
                             static_cast<std::int32_t>(end), pieces > 1 ? plan.slots++ : -1});
    }
  }
  std::stable_sort(plan.pieces.begin(), plan.pieces.end(), [](const DecodePiece& a, const DecodePiece& b) {
    return a.end - a.first > b.end - b.first;
  });
  return plan;
}

}  // namespace orrery::kernels
