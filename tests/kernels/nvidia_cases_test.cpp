// What NVIDIA's libraries say where they are not.
#include "catch.h"
#include "kernels/case_table.h"
#include "kernels/guarded_memory.h"

using namespace orrery::kernels;

TEST_CASE("cases of NVIDIA's libraries say why they cannot run without them", "[kernels]") {
  CaseSpec spec;
  spec.op = "gemm";
  spec.m = spec.n = spec.k = 16;
  std::string why;
  HostMemory memory;
  const auto gemm = make_case(spec, why);
  REQUIRE(gemm != nullptr);
  CHECK(!gemm->prepare(memory, 1, why));
  CHECK(why == "built without a CUDA toolkit: no cuBLASLt");
  spec.op = "all_reduce";
  spec.bytes = 1024;
  spec.ranks = 2;
  const auto collective = make_case(spec, why);
  REQUIRE(collective != nullptr);
  CHECK(!collective->prepare(memory, 1, why));
  CHECK(why == "built without a CUDA toolkit: no NCCL");
}
