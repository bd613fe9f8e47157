// All-reduce, residual, RMSNorm and quantisation in one launch (cases.md C1): a row is pushed to all peers,
// the parts are added in order of ranks and stay in registers through what reduce_add_rms_norm.h computes:
//   s = Σ parts + residual, in fp32, rounded once to bf16 and written to residual_out
//   out[i] = s[i] / √(mean(s²) + ε) · weight[i]          (rounded once, to bf16 or fp8)
// The residual is whole on every rank, as it is behind tensor parallel layers.
#pragma once

#include "kernels/fp8_output.h"
#include "kernels/peer_memory.h"

namespace orrery::kernels {

constexpr std::int32_t peer_norm_most_columns = 8192;  // wider rows leave no registers

struct PeerReduceNormLaunch {
  PeerMemory peers;                     // a row at least fits a slot: 2 · columns bytes, as lines twice that
  const std::uint16_t* part = nullptr;  // bf16, rows × columns, this rank's
  const std::uint16_t* residual = nullptr;  // bf16, rows × columns
  std::uint16_t* residual_out = nullptr;    // may be `residual`
  const std::uint16_t* weight = nullptr;    // bf16, columns
  std::uint16_t* out = nullptr;             // bf16, rows × columns; unused when quantised
  Fp8Output quantized;                      // rows × columns
  std::int32_t rows = 0;
  std::int32_t columns = 0;  // multiple of 8, at most peer_norm_most_columns
  float epsilon = 1e-6F;
  bool lines = false;  // else flags
};

void launch_peer_reduce_norm(const PeerReduceNormLaunch& launch, void* stream);

}  // namespace orrery::kernels
