// What a launch works through, counted where it is launched, as the cost model counts it (costmodel/ops).
#pragma once

#include <vector>

#include "costmodel/step_pricer.h"

namespace orrery {

struct LaunchCount {
  const char* use = "";  // as in the step graph: "qkv_proj"
  OpClass op_class = OpClass::elementwise;
  double flops = 0;
  double memory_bytes = 0;      // that must come from memory or reach it: weights, keys and values
  double activation_bytes = 0;  // that the last cache may hold
  double link_bytes = 0;        // sent to other ranks
};

constexpr double bf16_bytes = 2;

}  // namespace orrery
