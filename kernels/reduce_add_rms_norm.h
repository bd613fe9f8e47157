// The second half of an all-reduce that is fused with what follows it: every rank's part of a row is read
// where it lies (a peer's memory as well as one's own), added in order of ranks, and goes on in registers to
// the residual, the norm and the quantisation of rms_norm.h:
//   s = Σ parts + residual, in fp32, rounded once to bf16 and written to residual_out
//   out[i] = s[i] / √(mean(s²) + ε) · weight[i]          (rounded once, to bf16 or fp8)
// Exchanging addresses and waiting until peers have written is the caller's.
#pragma once

#include "kernels/fp8_output.h"

namespace orrery::kernels {

constexpr std::int32_t reduce_most_ranks = 8;

struct ReduceAddRmsNormLaunch {
  const std::uint16_t* parts[reduce_most_ranks] = {};  // bf16, rows × columns, one a rank
  std::int32_t ranks = 0;                              // 2, 4 or 8
  const std::uint16_t* residual = nullptr;             // bf16, rows × columns
  std::uint16_t* residual_out = nullptr;               // may be `residual`
  const std::uint16_t* weight = nullptr;               // bf16, columns
  std::uint16_t* out = nullptr;                        // bf16, rows × columns; unused when quantised
  Fp8Output quantized;                                 // rows × columns
  std::int32_t rows = 0;
  std::int32_t columns = 0;  // multiple of 8, at most norm_most_columns
  float epsilon = 1e-6F;
};

void launch_reduce_add_rms_norm(const ReduceAddRmsNormLaunch& launch, void* stream);

}  // namespace orrery::kernels
