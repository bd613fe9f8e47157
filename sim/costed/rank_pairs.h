// Between which GPUs a prompt's KV flows when the widths of prefill and decode may differ.
//
// vLLM 0.24 (distributed/kv_transfer/kv_connector/v1/nixl/tp_mapping.py, compute_tp_mapping): a decode rank
// reads the heads that it keeps. Where decode is as wide or wider, they stand on one prefill rank. Where
// prefill is wider they stand on several, and of those that keep the same head (fewer heads than ranks) the
// first is read. A latent is kept whole by every rank, so every decode rank reads one copy, from one rank.
//
// With pipeline stages (SGLang 0.5.23, disaggregation/common/conn.py, `target_pp_ranks`; vLLM 0.24,
// mooncake_connector.py, `receive_kv` and `_align_transfer_regions`) the same holds between every two stages
// that have layers in common, of those layers.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace orrery {

struct RankPair {
  std::int32_t from = 0, to = 0;           // ranks of the prefill and of the decode instance
  std::int32_t parts = 1;                  // this pair carries one of so many equal parts of what `to` keeps
  std::int64_t layers = 1, of_layers = 1;  // of the model's layers those that both have
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

// Ranks of an instance: stage after stage, each of width tp. `layers`: with KV, by stage; both sum to the
// same.
inline std::vector<RankPair> stage_pairs(std::int32_t prefill_tp,
                                         const std::vector<std::int64_t>& prefill_layers,
                                         std::int32_t decode_tp,
                                         const std::vector<std::int64_t>& decode_layers,
                                         std::int64_t kv_heads, bool latent) {
  const std::vector<RankPair> of_a_stage = rank_pairs(prefill_tp, decode_tp, kv_heads, latent);
  std::vector<RankPair> pairs;
  std::int64_t all = 0, from_begin = 0;
  for (const std::int64_t n : prefill_layers) all += n;
  for (std::size_t from = 0; from < prefill_layers.size(); ++from) {
    const std::int64_t from_end = from_begin + prefill_layers[from];
    std::int64_t to_begin = 0;
    for (std::size_t to = 0; to < decode_layers.size(); ++to) {
      const std::int64_t to_end = to_begin + decode_layers[to];
      const std::int64_t common = std::min(from_end, to_end) - std::max(from_begin, to_begin);
      to_begin = to_end;
      if (common <= 0) continue;
      for (RankPair pair : of_a_stage) {
        pair.from += static_cast<std::int32_t>(from) * prefill_tp;
        pair.to += static_cast<std::int32_t>(to) * decode_tp;
        pair.layers = common;
        pair.of_layers = all;
        pairs.push_back(pair);
      }
    }
    from_begin = from_end;
  }
  return pairs;
}

}  // namespace orrery
