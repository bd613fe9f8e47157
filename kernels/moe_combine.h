// The end of an MoE layer: out[token] = Σⱼ weight[token, j] · y[position[token·k + j]], in fp32, in the order
// of j, rounded once to bf16.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct MoeCombineLaunch {
  const std::uint16_t* y = nullptr;         // bf16, sorted rows × columns
  const std::int32_t* positions = nullptr;  // tokens × k, as moe_align gives them; −1 adds nothing
  const float* weights = nullptr;           // tokens × k
  std::uint16_t* out = nullptr;             // bf16, tokens × columns
  std::int32_t tokens = 0, k = 0;
  std::int32_t columns = 0;  // multiple of 8
};

void launch_moe_combine(const MoeCombineLaunch& launch, void* stream);

}  // namespace orrery::kernels
