// Kernels on matrix cores, each target's fragments emulated, against double-precision references.
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
  const CheckResult result = kernel->check(memory);
  return result.passed ? "" : "check: " + result.detail;
}

struct Experts {
  std::vector<std::int64_t> rows;
  std::int64_t n, k;
  Fill fill = Fill::random;
};

}  // namespace

TEST_CASE("grouped GEMM agrees with its reference at every tile height", "[kernels]") {
  const std::vector<Experts> shapes = {
      {{1}, 8, 16},
      {{1, 0, 3, 0, 0, 16, 2}, 130, 336},
      {{17, 31, 0, 5}, 257, 400},  // primes; an odd n is stored by halves
      {{0, 0, 61, 40}, 131, 272},
      {{0, 150, 0}, 192, 512},  // one expert has all
      {{0, 0}, 192, 512},
      {{0, 150, 20}, 192, 272, Fill::saturating},
      {{4, 0, 130}, 192, 272, Fill::with_nan},
      {{4, 0, 9}, 192, 272, Fill::zeros},
  };
  for (const char* dtype : {"bf16", "fp8-block"}) {
    for (const Experts& shape : shapes) {
      CaseSpec spec;
      spec.op = "grouped_gemm";
      spec.dtype = dtype;
      spec.rows = shape.rows;
      spec.n = shape.n;
      spec.k = shape.k;
      spec.fill = shape.fill;
      CAPTURE(dtype, shape.rows, shape.n, shape.k, static_cast<int>(shape.fill));
      CHECK(run_case(spec) == "");
    }
  }
}
