// Attention of new tokens over a paged KV cache that already holds them: causal, aligned at the end (new
// token i of a sequence sees the context and new tokens up to i), grouped queries, bf16. Prompts, chunks of
// prompts against a long context, and mixtures; sequences lie one behind the other.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/paged_kv.h"

namespace orrery::kernels {

// Rows of a tile are (new token, head of the group), the head running fastest: tokens of a group share keys,
// and a short chunk still fills a tile.
constexpr std::int32_t prefill_tile_rows = 128;

struct PrefillTile {
  std::int32_t sequence = 0, first_row = 0;  // rows of this sequence
  std::int32_t new_tokens = 0, context = 0;  // of the sequence
  std::int32_t first_token = 0;              // of the sequence in queries and out
};
// `sequences`: (new tokens, context before). Longest tiles first: the last wave ends early.
std::vector<PrefillTile> plan_attention_prefill(
    const std::vector<std::pair<std::int64_t, std::int64_t>>& sequences, std::int64_t group);

struct AttentionPrefill {
  const void* queries = nullptr;       // [new tokens of all sequences][heads][head_dim] bf16
  void* out = nullptr;                 // [the same][heads][value_dim]
  PagedKv kv;                          // bf16
  const PrefillTile* tiles = nullptr;  // device
  std::int32_t tile_count = 0;
  std::int32_t heads = 0, kv_heads = 0;
  std::int32_t head_dim = 0, value_dim = 0;  // 64 or 128 both, or 192 and 128 (latent attention, expanded)
  float softmax_scale = 1;
};

// Launches only: may be captured. `stream` is a cudaStream_t.
void attention_prefill(const AttentionPrefill& problem, void* stream);

// The same with wgmma, for compute capability 9.0.
void attention_prefill_wgmma(const AttentionPrefill& problem, void* stream);
const char* attention_prefill_wgmma_refusal();  // why the current device cannot; null when it can

}  // namespace orrery::kernels
