// Every operator of the case table in the simulator, against its double-precision reference.
#include "catch.h"
#include "kernels/case_table.h"
#include "kernels/cpu_simulator.h"
#include "kernels/guarded_memory.h"

using namespace orrery::kernels;

namespace {

// Prepares, launches and checks; the text says what went wrong.
std::string run_case(const CaseSpec& spec) {
  std::string why;
  const auto kernel = make_case(spec, why);
  if (kernel == nullptr) return "refused: " + why;
  HostMemory memory;
  if (!kernel->prepare(memory, 1, why)) return "prepare: " + why;
  static_cast<void>(simulator::take_error());
  kernel->launch(0, nullptr);
  if (const std::string error = simulator::take_error(); !error.empty()) return "simulator: " + error;
  if (!memory.guards_intact(why)) return "guards: " + why;
  const CheckResult result = kernel->check(memory);
  return result.passed ? "" : "check: " + result.detail;
}

}  // namespace

TEST_CASE("rms_norm agrees with its reference", "[kernels]") {
  for (const Fill fill : {Fill::random, Fill::zeros, Fill::saturating, Fill::with_nan}) {
    for (const auto& [m, n] : {std::pair{1, 8}, {7, 128}, {3, 2056}, {2, 4096}, {1, 8200}}) {
      CaseSpec spec;
      spec.op = "rms_norm";
      spec.m = m;
      spec.n = n;
      spec.fill = fill;
      CAPTURE(m, n, static_cast<int>(fill));
      CHECK(run_case(spec) == "");
    }
  }
}
