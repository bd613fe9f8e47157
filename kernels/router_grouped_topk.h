// An MoE router's choice by groups of experts (DeepSeek-V2 and V3; vLLM's grouped_topk,
// vllm/model_executor/layers/ fused_moe/router/grouped_topk_router.py): a score each by softmax or sigmoid;
// to choose by, the score plus a bias; a group is worth its best choice or, with a bias, its two best added;
// of the experts of the best groups, the k best are chosen, best first. Weights are scores without the bias.
// Equals go to the lower index. A NaN counts below everything and makes all weights of its row NaN; the ids
// stay valid.
#pragma once

#include <cstdint>

namespace orrery::kernels {

struct RouterGroupedTopkLaunch {
  const float* logits = nullptr;   // rows × experts
  const float* bias = nullptr;     // experts; null: none
  float* weights = nullptr;        // rows × k
  std::int32_t* chosen = nullptr;  // rows × k
  std::int32_t rows = 0;
  std::int32_t experts = 0;  // at most router_most_experts, a multiple of groups
  std::int32_t groups = 1;   // at most router_most_groups; neighbouring experts; two or more each with a bias
  std::int32_t top_groups = 1;  // at most groups
  std::int32_t k = 0;           // at most min(experts of the chosen groups, 32)
  bool sigmoid = false;         // else softmax
  bool renormalize = true;      // weights of a row add up to `factor`
  float factor = 1;             // routed_scaling_factor
};
constexpr std::int32_t router_most_groups = 32;

void launch_router_grouped_topk(const RouterGroupedTopkLaunch& launch, void* stream);

}  // namespace orrery::kernels
