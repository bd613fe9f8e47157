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

  BlockGemmExperts layout = BlockGemmExperts::none;
  std::int32_t experts = 1;
  const std::int32_t* row_offsets = nullptr;  // device, [experts + 1]
  const std::int32_t* expert_rows = nullptr;  // device, [experts]
  std::int32_t slots = 0;
  std::int32_t rows_each = 0;  // of an expert that has some, as far as the host knows: chooses tiles; 0: all
                               // rows over all experts
};

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
BlockGemmTile block_gemm_tile(const BlockGemm& problem, std::int32_t compute_units);  // what it would choose
std::span<const BlockGemmTile> block_gemm_tiles();                                    // all that exist
// Null when there is no such tile for the problem; otherwise why not.
const char* block_gemm_wgmma(const BlockGemm& problem, const BlockGemmTile& tile, void* stream);

}  // namespace orrery::kernels
