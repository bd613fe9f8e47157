// RMSNorm of rows, with the residual added before and the result quantised after where asked for:
//   s = x + residual, rounded to bf16 and written to residual_out      (when residual is given)
//   out[i] = s[i] / √(mean(s²) + ε) · weight[i]                        (in fp32; rounded once, to bf16 or
//   fp8)
#pragma once

#include "kernels/fp8_output.h"

namespace orrery::kernels {

struct RmsNormLaunch {
  const std::uint16_t* x = nullptr;         // bf16, rows × columns
  const std::uint16_t* residual = nullptr;  // bf16, rows × columns; null: nothing is added
  std::uint16_t* residual_out = nullptr;    // may be `residual`
  const std::uint16_t* weight = nullptr;    // bf16, columns
  std::uint16_t* out = nullptr;             // bf16, rows × columns; unused when quantised
  Fp8Output quantized;                      // rows × columns
  std::int32_t rows = 0;
  std::int32_t columns = 0;  // multiple of 8, at most norm_most_columns
  float epsilon = 1e-6F;
};
constexpr std::int32_t norm_most_columns = 32768;

void launch_rms_norm(const RmsNormLaunch& launch, void* stream);

}  // namespace orrery::kernels
