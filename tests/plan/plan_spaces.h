// Spaces of these tests, and searches of them.
#pragma once

#include <string>
#include <utility>

#include "base/support.h"
#include "catch.h"
#include "plan/search.h"
#include "plan/space.h"

namespace orrery::plan_test {

// Requests of 600 and 60 tokens, 8 a second; kernels on the roofline, for tables make no difference here and
// take time to read.
inline std::string scenario_text(const std::string& slo, int requests = 240) {
  return "deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}\n"
         "workload:\n  generator:\n    requests: " +
         std::to_string(requests) +
         "\n    arrivals: {process: poisson, rate: 8}\n"
         "    input: {distribution: fixed, value: 600}\n    output: {distribution: fixed, value: 60}\n" +
         slo + "seed: 3\n";
}

inline const std::string easy_slo = "slo: {ttft_ms: 1000, tpot_ms: 20, percentile: 95}\n";

inline PlanSpace space_of(const test::TempFolder& folder, const std::string& text) {
  auto space = load_space(folder.write("space.yaml", text));
  if (!space.ok()) FAIL(to_string(space.errors()));
  return std::move(space).value();
}

inline PlanSearch searched(const PlanSpace& space, const SearchOptions& options = {}) {
  auto search = search_plans(space, options);
  if (!search.ok()) FAIL(to_string(search.errors()));
  return std::move(search).value();
}

}  // namespace orrery::plan_test
