// An MoE layer's choice by popularity instead of by the logits: k distinct experts of each row, drawn from
// the row's name by the law of costmodel/experts/token_draws.h, number for number as NamedChoice::draw draws
// them, so that a run on kernels has the hotspot that its simulation has. Weights are the router's own, a
// softmax over what was chosen. Reads and writes what router_topk does, and 8 bytes a row.
#pragma once

#include <cstdint>

namespace orrery::kernels {

// NamedChoice's alias table: a place is its own expert with keep / 2³², else the other.
struct DrawnExpert {
  std::uint32_t keep = 0;
  std::uint16_t own = 0, other = 0;
};

struct RouterDrawnLaunch {
  const float* logits = nullptr;        // rows × experts
  const std::uint64_t* keys = nullptr;  // rows: token_key
  const DrawnExpert* table = nullptr;   // experts
  const double* popularity = nullptr;   // experts, sum 1: what repeats in a row are drawn from
  float* weights = nullptr;             // rows × k
  std::int32_t* chosen = nullptr;       // rows × k, in order of choice
  std::uint64_t layer = 0;              // among those with experts
  std::int32_t rows = 0;
  std::int32_t experts = 0;  // at most router_most_experts
  std::int32_t k = 0;        // at most min(experts, 32)
};

void launch_router_drawn(const RouterDrawnLaunch& launch, void* stream);

}  // namespace orrery::kernels
