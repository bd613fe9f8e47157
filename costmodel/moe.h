// How a batch spreads over experts whose popularity is uniform. A finite batch is uneven even then.
#pragma once

#include <array>
#include <cstdint>

#include "costmodel/experts/rank_loads.h"
#include "costmodel/operator.h"
#include "costmodel/roofline.h"

namespace orrery {

struct MoeTile;

// Experts that at least one of `tokens` tokens chose: E·(1 − (1 − k/E)^T). k at one token, E in the limit.
double expected_distinct_experts(double experts, double per_token, double tokens);

// What one rank of an expert-parallel group has to do: rows (token, expert) and experts with rows.
using ExpertShare = RankLoad;
// Expected share of the slowest of `ranks` ranks that hold E/R experts each; a collective after the layer
// makes all wait for it. With rows T·k/R ± σ and distinct ± σ′ of the mean, the largest of R ranks lies m_R·σ
// above it, m_R being the expected largest of R standard normals and
//   σ² = T·k/R·(E−k)/(E−1),   σ′² = E/R·p(1−p)·E/(E−1),   p = 1 − (1 − k/E)^T
// (T draws without replacement of k of E; the deviations of the ranks sum to zero, which the factors
// contain). One rank: everything, exactly.
ExpertShare expected_slowest_rank(double experts, double per_token, double tokens, double ranks);

// Expected largest number of `tokens` tokens with a row in one of `groups` equal groups of experts, of which
// a token's rows meet `distinct` on average: binomial, as above.
double expected_most_touched(double groups, double distinct, double tokens);

// Row block of vLLM's Triton fused MoE without a tuned file (../shared/reference/vllm_0_24.md §7). Other
// blocks: costmodel/moe_tiles.h.
std::int64_t moe_block_rows(std::int64_t tokens);

// Row blocks where 4-bit weights meet 8-bit activations: CUTLASS' mixed-input kernels swap the operands, so
// that weights fill the instruction's 64 rows and tokens its columns, 16 to 128 a tile (vLLM
// csrc/quantization/cutlass_w4a8/w4a8_grouped_mm_entry.cu, tile 128 × 16; TensorRT-LLM
// moe_gemm_tma_ws_mixed_input, tiles 64 and 128 × 16 to 128). That an engine takes the fastest one is
// assumed.
inline constexpr std::array<std::int64_t, 4> swapped_blocks{16, 32, 64, 128};

// Row tiles after each expert's rows are padded to whole blocks, Σ⌈nᵢ/B⌉. Rows of an expert vary over at
// least a block once tiles are more than one per expert, so the last block is half full on average:
// max(distinct, rows/B + distinct/2), within 7 % of the binomial expectation.
double expected_row_tiles(double distinct, double rows, std::int64_t block_rows);

struct GroupedRows {
  double rows = 0;       // all groups
  double distinct = 0;   // groups with rows
  double row_tiles = 0;  // Σ⌈rows of group / block⌉
  std::int64_t block_rows = 16;
  const MoeTile* tile = nullptr;  // priced by the tile law (docs/tiles.md); block_rows are its own
};
OpCost grouped_gemm_cost(const Roofline& roofline, const OpSpec& spec, const GroupedRows& rows);

}  // namespace orrery
