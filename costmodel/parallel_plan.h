// How one instance is spread over GPUs.
#pragma once

#include <cstdint>

#include "base/result.h"
#include "base/yaml_reader.h"

namespace orrery {

struct ParallelPlan {
  std::int32_t tp = 1;  // tensor parallel width
  std::int32_t pp = 1;  // pipeline stages
  std::int32_t ep = 1;  // expert-parallel width, a divisor of tp·dp·cp; experts' tensor width = tp·dp·cp/ep
  std::int32_t dp = 1;  // attention data parallel ranks inside one instance, in lockstep
  std::int32_t cp = 1;  // context parallel ranks, copies of attention (SGLang)
  std::int32_t gpus() const { return tp * pp * dp * cp; }
  std::int32_t mlp_ranks() const {
    return tp * dp * cp;
  }  // that experts and, where gathered, MLPs are spread over
};

// Reads `parallel: {tp, pp, ep, dp, cp}`; every width ≥ 1, ep divides tp·dp·cp. Widths that Orrery cannot
// price yet (pp above 64, dp above 512, ep other than 1 or tp·dp·cp) are refused by name.
ParallelPlan read_parallel_plan(const Yaml& node);

}  // namespace orrery
