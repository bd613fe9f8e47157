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
};

void launch_silu_mul(const SiluMulLaunch& launch, void* stream);

}  // namespace orrery::kernels
