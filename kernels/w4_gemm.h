// Products of experts with weights of four bits: int4 (−8 … 7) with a bf16 scale for each 128 features in, as
// AWQ and GPTQ checkpoints of symmetric groups have them.
//   W4A8    activations e4m3 with a scale a row: weights become e4m3, which holds −8 … 7 exactly
//   W4A16   activations bf16: weights become bf16
// Sums over a group are fp32 and scaled in fp32, so that no scaled weight is rounded. Output bf16.
#pragma once

#include <cstdint>

#include "kernels/block_gemm.h"

namespace orrery::kernels {

constexpr std::int32_t w4_group = 128;  // features in that share a scale
// Features out are packed in units of 16: what is beyond n is packed as zeros.
constexpr std::int64_t w4_padded(std::int64_t n) { return (n + 15) / 16 * 16; }

// A checkpoint's weights in the order in which the lanes of this device's matrix instructions hold them
// (w4_fragments.h), so that a lane reads 16 bytes at a time and has its values after few instructions.
struct W4Pack {
  const std::uint8_t* from = nullptr;      // [experts][n][k/2], two's complement, the even feature in the low
                                           // half
  std::uint8_t* to = nullptr;              // [experts][k/128][w4_padded(n)/16][1 KiB]
  std::int32_t experts = 1, n = 0, k = 0;  // k is a multiple of 128
  bool for_bf16 = false;                   // activations
};
void launch_w4_pack(const W4Pack& pack, void* stream);

struct W4Gemm {
  // Everything but the weights' scales: `weights` as packed, `activation_scales` [rows] of e4m3, `by_channel`
  // and what belongs to scales by block unused; k is a multiple of 128.
  BlockGemm product;
  const std::uint16_t* group_scales = nullptr;  // bf16 [experts][k/128][w4_padded(n)]
  bool bf16 = false;                            // activations
};

// On the matrix cores of every target (matrix_tile.h). Only launches: may be captured.
void w4_gemm(const W4Gemm& problem, void* stream);

// The same with wgmma, for compute capability 9.0; n is a multiple of 8.
void w4_gemm_wgmma(const W4Gemm& problem, void* stream);
const char* w4_gemm_wgmma_refusal();  // why the current device cannot; null when it can

}  // namespace orrery::kernels
