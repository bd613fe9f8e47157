// What is NVIDIA's only: products on its matrix instructions, emulated, and what its libraries say where they
// are not.
#include "catch.h"
#include "kernels/run_case.h"

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
  CHECK(why.starts_with("libhipblaslt.so"));  // the other library, which is looked for when the case runs
  spec.op = "all_reduce";
  spec.bytes = 1024;
  spec.ranks = 2;
  const auto collective = make_case(spec, why);
  REQUIRE(collective != nullptr);
  CHECK(!collective->prepare(memory, 1, why));
  CHECK(why.starts_with("built without a CUDA toolkit: no NCCL; "));
}

TEST_CASE("block GEMM agrees with its reference in every layout of rows", "[kernels]") {
  struct Product {
    std::int64_t m;                  // dense
    std::vector<std::int64_t> rows;  // of experts
    std::int64_t slots, n, k;
    Fill fill = Fill::random;
  };
  const std::vector<Product> shapes = {
      {1, {}, 0, 8, 16},
      {17, {}, 0, 131, 400},  // primes; an odd n is stored by halves
      {150, {}, 0, 136, 144},
      {70, {}, 0, 66, 144, Fill::saturating},
      {40, {}, 0, 66, 272, Fill::with_nan},
      {9, {}, 0, 66, 144, Fill::zeros},
      {0, {1, 0, 3, 0, 0, 16, 2}, 0, 130, 336},
      {0, {0, 150, 20}, 0, 136, 144, Fill::saturating},
      {0, {0, 0}, 0, 192, 512},
      {0, {5, 0, 24, 1}, 24, 136, 272},  // masked: what nobody uses must stay as it was
      {0, {130, 0, 3}, 160, 136, 144, Fill::with_nan},
  };
  for (const char* dtype : {"fp8-block", "fp8-channel"}) {
    for (const Product& shape : shapes) {
      CaseSpec spec;
      spec.op = "block_gemm";
      spec.dtype = dtype;
      spec.m = shape.m;
      spec.rows = shape.rows;
      spec.slots = shape.slots;
      spec.n = shape.n;
      spec.k = shape.k;
      spec.fill = shape.fill;
      CAPTURE(dtype, shape.m, shape.rows, shape.slots, shape.n, shape.k, static_cast<int>(shape.fill));
      CHECK(run_case(spec) == "");
    }
  }
}
