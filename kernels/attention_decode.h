// Attention of one new token per sequence over a paged KV cache, grouped queries, split over the context
// (flash decoding): a partial softmax per piece of context, then a kernel that merges the pieces of a
// sequence.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/paged_kv.h"

namespace orrery::kernels {

// Tokens [first, end) of a sequence; first is a multiple of 16. The partial result goes to `slot`, or
// straight to the output when slot is −1: the sequence has one piece.
struct DecodePiece {
  std::int32_t sequence = 0, first = 0, end = 0, slot = -1;
};
struct DecodeMerge {
  std::int32_t sequence = 0, first_slot = 0, slots = 0;
};
struct DecodePlan {
  std::vector<DecodePiece> pieces;
  std::vector<DecodeMerge> merges;
  std::int32_t slots = 0, tokens_per_piece = 0;
};
// Pieces such that all blocks of threads that a part holds at once are busy to the end; or, where somebody
// has searched for much the same contexts before, of so many tokens.
DecodePlan plan_attention_decode(const std::vector<std::int64_t>& contexts, std::int64_t heads,
                                 std::int64_t kv_heads, std::int64_t compute_units,
                                 std::int64_t tokens_per_piece = 0);

struct AttentionDecode {
  const void* queries = nullptr;  // [sequences][heads][head_dim] bf16
  void* out = nullptr;            // the same
  PagedKv kv;
  const DecodePiece* pieces = nullptr;  // device
  const DecodeMerge* merges = nullptr;  // device
  float* partial = nullptr;             // [slots][heads][head_dim]
  float* partial_log_sum = nullptr;     // [slots][heads], base 2
  std::int32_t piece_count = 0, merge_count = 0;
  std::int32_t heads = 0, kv_heads = 0, head_dim = 0;  // head_dim 64 or 128
  bool fp8_kv = false;
  float softmax_scale = 1;
};

std::int64_t attention_compute_units();  // of the current device
// Relative error of the exponentials as they enter the second product: bf16, or f16 beside e4m3 that NVIDIA's
// go with.
double attention_weight_rounding(bool fp8_kv);

// Launches only: may be captured. `stream` is a cudaStream_t.
void attention_decode(const AttentionDecode& problem, void* stream);

}  // namespace orrery::kernels
