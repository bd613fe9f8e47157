// Products of 8-bit operands with scales: out[r, :] = activations[r, :] · weightsᵀ, dense or with rows of
// experts. Operands e4m3, sums fp32, output bf16. Sums over each block of 128 features in are kept apart and
// added in fp32, because tensor cores add 8-bit products with about 14 bits.
//   scales by block    fp32 for a row and 128 features in, fp32 for 128 × 128 weights (DeepSeek-V3)
//   scales by channel  fp32 for a row, fp32 for a feature out
#pragma once

#include <cstdint>
#include <span>

namespace orrery::kernels {

enum class BlockGemmExperts : std::uint8_t {
  none,        // one matrix of weights for all rows
  contiguous,  // rows of expert e are row_offsets[e] to row_offsets[e + 1] − 1
  masked,      // expert e has `slots` rows from e · slots on, the first expert_rows[e] of them in use
};

struct BlockGemm {
  const void* activations = nullptr;         // [rows][k]
  const float* activation_scales = nullptr;  // by block: of (row, block) at row · scale_row + block ·
                                             // scale_block; by channel: [rows]
  const void* weights = nullptr;             // [experts][n][k]
  const float* weight_scales = nullptr;      // by block: [experts][⌈n/128⌉][weight_blocks]; by channel:
                                             // [experts][n]
  void* out = nullptr;                       // [rows][n]; rows that are nobody's are left as they are
  std::int32_t rows = 0, n = 0, k = 0;       // k is a multiple of 16
  std::int32_t scale_row = 0, scale_block = 0, weight_blocks = 0;
  bool by_channel = false;
  // The launch may begin before the one in front of it in the stream is through, and bring weights: they are
  // not what that one writes, nor are the rows of experts. Only the wgmma form.
  bool early = false;

  BlockGemmExperts layout = BlockGemmExperts::none;
  std::int32_t experts = 1;
  const std::int32_t* row_offsets = nullptr;  // device, [experts + 1]
  const std::int32_t* expert_rows = nullptr;  // device, [experts]
  std::int32_t slots = 0;
  std::int32_t rows_each = 0;  // of an expert that has some, as far as the host knows: chooses tiles; 0: all
                               // rows over all experts
  // Of the wgmma form, dense: where the last tiles, fewer than multiprocessors, are made in parts. Its first
  // block_gemm_counter_bytes are zeros before the first launch; launches that share it follow one another.
  void* workspace = nullptr;
  std::int64_t workspace_bytes = 0;  // 0: every tile by one block
};

constexpr std::int64_t block_gemm_counter_bytes = 4096;
// Enough for any tile and part.
constexpr std::int64_t block_gemm_workspace(std::int64_t compute_units) {
  return block_gemm_counter_bytes + compute_units * 256 * 128 * 4;
}
// Tiles from `first` on are made in `parts` parts of the features in.
struct BlockTail {
  std::int32_t first = 0, parts = 1;
};
// Of `tiles` tiles with `steps` steps of 128 features in, on as many blocks as run at once.
constexpr BlockTail block_gemm_tail(std::int64_t tiles, std::int64_t blocks, std::int64_t steps) {
  constexpr std::int64_t most_parts = 8, least_steps = 4;
  const std::int64_t first = tiles / blocks * blocks, left = tiles - first;
  std::int64_t parts = left > 0 ? blocks / left : 1;
  parts = parts < most_parts ? parts : most_parts;
  parts = parts * least_steps <= steps ? parts : steps / least_steps;
  return {static_cast<std::int32_t>(first), static_cast<std::int32_t>(parts > 1 ? parts : 1)};
}
// Rows of tiles that are walked over all columns before the next: as many as 2,048 rows have, but the last
// such band, if it were a row or two, would read all weights for those.
constexpr std::int32_t block_gemm_band(std::int64_t rows, std::int64_t tile_rows) {
  const std::int64_t most = 2048 / tile_rows, all = (rows + tile_rows - 1) / tile_rows;
  const std::int64_t bands = (all + most - 1) / most;
  return static_cast<std::int32_t>((all + bands - 1) / bands);
}

constexpr std::int32_t block_gemm_max_experts = 512;

// mma.sync; sm_89 and later, and the simulator. Only launches: may be captured. `stream` is a cudaStream_t.
void block_gemm(const BlockGemm& problem, void* stream);

// The same with wgmma, for compute capability 9.0; n is a multiple of 8, scale_row 1 and scale_block one of
// 4, as the copy engine takes scales.
void block_gemm_wgmma(const BlockGemm& problem, void* stream);
const char* block_gemm_wgmma_refusal();  // why the current device cannot; null when it can

// How block_gemm_wgmma cuts a problem: a point of the space that can be searched.
enum class SharedCopies : std::uint8_t { none, weights, activations };  // by the two blocks of a cluster
struct BlockGemmTile {
  std::int32_t rows = 0, columns = 0;  // of out
  bool swapped = false;                // weights are the operand that has 64 rows an instruction
  std::int32_t stages = 0;             // 128 features in of both operands
  SharedCopies shared = SharedCopies::none;
  std::int32_t splits = 1;  // blocks of a cluster over the features in of one tile
  std::int32_t blocks = 1;  // of a multiprocessor: while one stores a tile, another's weights go on coming
  friend bool operator==(const BlockGemmTile&, const BlockGemmTile&) = default;
};
// Whether its last tiles may be made in parts.
constexpr bool block_gemm_has_tails(const BlockGemmTile& t) {
  return !t.swapped && t.rows * t.columns > 128 * 128 && t.splits == 1 && t.shared == SharedCopies::none;
}
// In how many parts it would make the last tiles of a problem that has a workspace: one where that gains
// nothing.
BlockTail block_gemm_tail_of(const BlockGemm& problem, const BlockGemmTile& tile, std::int32_t compute_units);
BlockGemmTile block_gemm_tile(const BlockGemm& problem, std::int32_t compute_units);  // what it would choose
std::span<const BlockGemmTile> block_gemm_tiles();                                    // all that exist
// Null when there is no such tile for the problem; otherwise why not.
const char* block_gemm_wgmma(const BlockGemm& problem, const BlockGemmTile& tile, void* stream);

}  // namespace orrery::kernels
