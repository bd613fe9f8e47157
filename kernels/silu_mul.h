// The gate of an MLP: out[i] = silu(gate[i]) · up[i], silu(g) = g / (1 + e⁻ᵍ), in fp32; rounded once, to bf16
// or to fp8.
#pragma once

#include "kernels/fp8_output.h"

namespace orrery::kernels {

struct SiluMulLaunch {
  const std::uint16_t* gate_up = nullptr;  // bf16, rows × 2·columns: a row's gates, then its ups
  std::uint16_t* out = nullptr;            // bf16, rows × columns; unused when quantised
  Fp8Output quantized;                     // rows × columns
  std::int32_t rows = 0;
  std::int32_t columns = 0;  // multiple of 8; at most norm_most_columns when scaled per token
  // With expert_rows: row e · slots + i is in use for i < expert_rows[e] (device); the others are left alone.
  const std::int32_t* expert_rows = nullptr;
  std::int32_t experts = 0, slots = 0;  // rows = experts · slots
  // On the device: rows from there on are left alone. Null: all are in use. Not with a scale per token.
  const std::int32_t* used_rows = nullptr;
};
constexpr std::int32_t silu_mul_most_experts = 512;

void launch_silu_mul(const SiluMulLaunch& launch, void* stream);
void launch_silu_mul_masked(const SiluMulLaunch& launch, void* stream);  // what it does with expert_rows

}  // namespace orrery::kernels
