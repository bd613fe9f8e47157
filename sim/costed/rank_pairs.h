// Between which GPUs a prompt's KV flows when the tensor-parallel widths of prefill and decode may differ.
//
// vLLM 0.24 (distributed/kv_transfer/kv_connector/v1/nixl/tp_mapping.py, compute_tp_mapping): a decode rank
// reads the heads that it keeps. Where decode is as wide or wider, they stand on one prefill rank. Where
// prefill is wider they stand on several, and of those that keep the same head (fewer heads than ranks) the
// first is read. A latent is kept whole by every rank, so every decode rank reads one copy, from one rank.
#pragma once

#include <cstdint>
#include <vector>

namespace orrery {

struct RankPair {
  std::int32_t from = 0, to = 0;  // ranks of the prefill and of the decode instance
  std::int32_t parts = 1;         // this pair carries one of so many equal parts of what `to` keeps
  friend bool operator==(const RankPair&, const RankPair&) = default;
};

// Precondition: one width divides the other. `kv_heads` of the whole model.
inline std::vector<RankPair> rank_pairs(std::int32_t prefill_tp, std::int32_t decode_tp,
                                        std::int64_t kv_heads, bool latent) {
  std::vector<RankPair> pairs;
  for (std::int32_t to = 0; to < decode_tp; ++to) {
    if (latent || decode_tp >= prefill_tp) {
      pairs.push_back(
          {.from = static_cast<std::int32_t>(std::int64_t{to} * prefill_tp / decode_tp), .to = to});
      continue;
    }
    const std::size_t first = pairs.size();
    const std::int32_t width = prefill_tp / decode_tp;
    for (std::int32_t from = to * width; from < (to + 1) * width; ++from) {
      const std::int64_t head = from * kv_heads / prefill_tp;
      if (from > to * width && head == (from - 1) * kv_heads / prefill_tp) continue;  // read already
      pairs.push_back({.from = from, .to = to});
    }
    for (std::size_t i = first; i < pairs.size(); ++i)
      pairs[i].parts = static_cast<std::int32_t>(pairs.size() - first);
  }
  return pairs;
}

}  // namespace orrery
