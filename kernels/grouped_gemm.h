// Grouped GEMM of mixture-of-experts layers: out[r, :] = activations[r, :] · weights[expert of r]ᵀ, rows
// sorted by expert. bf16, or e4m3 with fp32 scales of 1×128 (activations) and 128×128 (weights), each block
// of 128 features in accumulated on its own and scaled in fp32. Output bf16.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct GroupedGemm {
  const void* activations = nullptr;         // [rows][k]: bf16 or e4m3
  const float* activation_scales = nullptr;  // e4m3: [rows][⌈k/128⌉]
  const void* weights = nullptr;             // [experts][n][k]
  const float* weight_scales = nullptr;      // e4m3: [experts][⌈n/128⌉][⌈k/128⌉]
  void* out = nullptr;                       // [rows][n] bf16
  const std::int32_t* row_offsets = nullptr;  // device, [experts + 1]: rows of expert e are [e], … [e + 1] −
                                              // 1
  std::int32_t experts = 0, rows = 0;  // rows = row_offsets[experts]
  std::int32_t n = 0, k = 0;           // k · element bytes is a multiple of 16
  bool fp8_block = false;
  std::int32_t tile_rows = 0;      // 16, 32, 64 or 128; 0: from rows and experts
  std::int32_t compute_units = 0;  // of the device; 0: asks the runtime
};

constexpr std::int32_t grouped_gemm_max_experts = 512;

// Tile height for `rows` rows over `busy` experts that have any.
constexpr std::int32_t grouped_gemm_tile_rows(std::int64_t rows, std::int64_t busy) {
  const std::int64_t each = busy > 0 ? (rows + busy - 1) / busy : 0;
  if (each <= 16) return 16;
  if (each <= 32) return 32;
  return each <= 96 ? 64 : 128;
}

// On the matrix cores of every target (matrix_tile.h); e4m3 in the device's format. `stream` is a
// cudaStream_t. Only launches: may be captured.
void grouped_gemm(const GroupedGemm& problem, void* stream);

// The same with wgmma, for compute capability 9.0: tiles of 64 or 128 rows.
void grouped_gemm_wgmma(const GroupedGemm& problem, void* stream);
const char* grouped_gemm_wgmma_refusal();  // why the current device cannot; null when it can

}  // namespace orrery::kernels
