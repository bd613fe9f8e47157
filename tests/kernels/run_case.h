// One kernel case in the simulator.
#pragma once

#include <string>

#include "kernels/case_table.h"
#include "kernels/cpu_simulator.h"
#include "kernels/guarded_memory.h"

namespace orrery::kernels {

// Prepares, launches and checks; the text says what went wrong.
inline std::string run_case(const CaseSpec& spec) {
  std::string why;
  const auto kernel = make_case(spec, why);
  if (kernel == nullptr) return "refused: " + why;
  HostMemory memory;
  if (!kernel->prepare(memory, 1, why)) return "prepare: " + why;
  static_cast<void>(simulator::take_error());
  kernel->launch(0, nullptr);
  if (const std::string error = simulator::take_error(); !error.empty()) return "simulator: " + error;
  const CheckResult result = kernel->check(memory);
  return result.passed ? "" : "check: " + result.detail;
}

}  // namespace orrery::kernels
