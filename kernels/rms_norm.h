// RMSNorm of rows: out[i] = x[i] / √(mean(x²) + ε) · weight[i], computed in fp32, rounded once to bf16.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct RmsNormLaunch {
  const std::uint16_t* x = nullptr;       // bf16, rows × columns
  const std::uint16_t* weight = nullptr;  // bf16, columns
  std::uint16_t* out = nullptr;           // bf16, rows × columns
  std::int32_t rows = 0;
  std::int32_t columns = 0;  // multiple of 8, at most norm_most_columns
  float epsilon = 1e-6F;
};
constexpr std::int32_t norm_most_columns = 32768;

void launch_rms_norm(const RmsNormLaunch& launch, void* stream);

}  // namespace orrery::kernels
