#include <algorithm>

#include "kernels/attention_decode.h"
#include "kernels/mla_decode.h"

namespace orrery::kernels {

namespace {

// How a kernel takes pieces.
struct PieceShape {
  std::int64_t across;    // blocks of threads a piece, one for each head or tile of heads
  std::int64_t at_once;   // blocks that the part holds
  std::int64_t tile;      // tokens that a block takes at a time
  std::int64_t overhead;  // what a piece costs beyond its tokens, in tokens: filling its pipeline, merging
};

std::int64_t pieces_of(std::int64_t context, std::int64_t tokens) { return (context + tokens - 1) / tokens; }

std::int64_t cost(const std::vector<std::int64_t>& contexts, const PieceShape& shape, std::int64_t tokens) {
  std::int64_t pieces = 0, most = 0, longest = 0;
  for (const std::int64_t context : contexts) {
    pieces += pieces_of(context, tokens);
    most = std::max(most, pieces_of(context, tokens));
    longest = std::max(longest, std::min(context, tokens));
  }
  const std::int64_t waves = (pieces * shape.across + shape.at_once - 1) / shape.at_once;
  const std::int64_t merging = most > 1 ? 128 + 2 * most : 0;
  return waves * (longest + shape.overhead) + merging;
}

std::int64_t best_piece(const std::vector<std::int64_t>& contexts, const PieceShape& shape) {
  std::int64_t longest = 1;
  for (const std::int64_t context : contexts) longest = std::max(longest, context);
  std::int64_t best = longest, best_cost = cost(contexts, shape, longest);
  for (std::int64_t tokens = 64; tokens < longest;
       tokens += std::max<std::int64_t>(64, tokens / 8 / 64 * 64)) {
    const std::int64_t of_this = cost(contexts, shape, tokens);
    if (of_this < best_cost) {
      best = tokens;
      best_cost = of_this;
    }
  }
  return best;
}

DecodePlan plan(const std::vector<std::int64_t>& contexts, const PieceShape& shape, std::int64_t best) {
  DecodePlan out;
  out.tokens_per_piece = static_cast<std::int32_t>(best);
  for (std::size_t s = 0; s < contexts.size(); ++s) {
    const std::int64_t context = contexts[s], count = pieces_of(context, best);
    if (context <= 0) continue;
    const std::int64_t even = (context + count - 1) / count,
                       each = (even + shape.tile - 1) / shape.tile * shape.tile,
                       pieces = pieces_of(context, each);
    if (pieces > 1) {
      out.merges.push_back({static_cast<std::int32_t>(s), out.slots, static_cast<std::int32_t>(pieces)});
    }
    for (std::int64_t i = 0; i < pieces; ++i) {
      const std::int64_t end = std::min(context, (i + 1) * each);
      out.pieces.push_back({static_cast<std::int32_t>(s), static_cast<std::int32_t>(i * each),
                            static_cast<std::int32_t>(end), pieces > 1 ? out.slots++ : -1});
    }
  }
  std::stable_sort(out.pieces.begin(), out.pieces.end(), [](const DecodePiece& a, const DecodePiece& b) {
    return a.end - a.first > b.end - b.first;
  });
  return out;
}

}  // namespace

DecodePlan plan_attention_decode(const std::vector<std::int64_t>& contexts, std::int64_t heads,
                                 std::int64_t kv_heads, std::int64_t compute_units,
                                 std::int64_t tokens_per_piece) {
  constexpr std::int64_t resident = 2;  // shared memory allows two blocks a compute unit
  const PieceShape shape{kv_heads * ((heads / kv_heads + 15) / 16), resident * compute_units, 16, 96};
  return plan(contexts, shape, tokens_per_piece > 0 ? tokens_per_piece : best_piece(contexts, shape));
}

// Here it allows one. The overhead: an empty pipeline and 128 KiB of partial results, about two tiles.
DecodePlan plan_mla_decode(const std::vector<std::int64_t>& tokens, std::int64_t heads,
                           std::int64_t heads_of_block, std::int64_t compute_units,
                           std::int64_t tokens_per_piece) {
  const PieceShape shape{(heads + heads_of_block - 1) / heads_of_block, compute_units, 64, 128};
  return plan(tokens, shape, tokens_per_piece > 0 ? tokens_per_piece : best_piece(tokens, shape));
}

}  // namespace orrery::kernels
