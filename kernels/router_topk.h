// An MoE router's choice: softmax over a row's logits, the k largest (ties to the lower expert), best first.
// A NaN is chosen last, and makes all weights of its row NaN; the ids stay valid.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct RouterTopkLaunch {
  const float* logits = nullptr;   // rows × experts
  float* weights = nullptr;        // rows × k
  std::int32_t* chosen = nullptr;  // rows × k
  std::int32_t rows = 0;
  std::int32_t experts = 0;  // at most router_most_experts
  std::int32_t k = 0;        // at most min(experts, 32)
  bool renormalize = true;   // weights of a row add up to 1
};
constexpr std::int32_t router_most_experts = 512, router_most_chosen = 32;

void launch_router_topk(const RouterTopkLaunch& launch, void* stream);

}  // namespace orrery::kernels
