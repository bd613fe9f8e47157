// What a launch works through, counted where it is launched, as the cost model counts it (costmodel/ops).
#pragma once

#include <cstdint>
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

// How long launches of one use took in a step that was run once more, with a clock between any two.
struct LaunchTime {
  const char* use = "";
  OpClass op_class = OpClass::elementwise;
  std::int64_t launches = 0;
  double ns = 0;  // of all
};

struct StepProfile {
  std::int64_t rows = 0;             // that layers were launched with
  double own_ns = 0;                 // the step as it is otherwise, run again: a graph, or launch by launch
  double launch_ns = 0;              // that the host then needed to launch it
  double graph_ns = 0;               // all of it from one graph: nothing waits for the host
  double timed_ns = 0;               // the same with the clocks, which take time themselves
  std::vector<LaunchTime> launches;  // in the order of their first
};

constexpr double bf16_bytes = 2;

}  // namespace orrery
