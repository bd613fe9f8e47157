// What is NVIDIA's only: products on its matrix instructions, emulated, and what its libraries say where they
// are not.
#include "catch.h"
#include "kernels/block_gemm.h"
#include "kernels/latent_rows.h"
#include "kernels/run_case.h"
#include "kernels/small_floats.h"

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

TEST_CASE("every e4m3 of a latent becomes bf16 exactly, and NaN stays NaN", "[kernels]") {
  for (std::uint32_t first = 0; first < 256; first += 16) {
    GpuBytes16 codes{};
    for (std::uint32_t i = 0; i < 16; ++i) codes.word[i / 4] |= (first + i) << (8 * (i % 4));
    const LatentSixteen sixteen = unpack_latent(codes);
    const bool has_nan = first % 128 == 112;  // 0x7F or 0xFF: the others of its sixteen are given up
    for (std::uint32_t i = 0; i < 16; ++i) {
      const std::uint32_t word = sixteen.half[i / 8].word[i % 8 / 2];
      const float value = bf16_to_float(static_cast<std::uint16_t>(word >> (16 * (i % 2))));
      CAPTURE(first + i, value);
      if (has_nan) {
        CHECK(value != value);
      } else {
        CHECK(value == fp8_to_float(static_cast<unsigned char>(first + i), Fp8Format::ocp));
      }
    }
  }
}

// The search on an H200 (docs/tiles.md): wide tiles bring each weight in larger pieces and win where experts
// are short; tall ones lose when more experts are busy than equal rows would have.
TEST_CASE("experts with few uneven rows get wide tiles of few rows", "[kernels]") {
  struct Products {
    std::int32_t experts, rows, each, n, k;
  };
  for (const Products& s : {Products{128, 512, 5, 2048, 768},
                            {128, 512, 5, 2048, 384},
                            {64, 243, 4, 2048, 768},
                            {256, 512, 3, 1024, 2048},
                            {32, 56, 3, 1024, 2048}}) {
    BlockGemm p;
    p.layout = BlockGemmExperts::contiguous;
    p.experts = s.experts;
    p.rows = s.rows;
    p.rows_each = s.each;
    p.n = s.n;
    p.k = s.k;
    const BlockGemmTile tile = block_gemm_tile(p, 132);
    CAPTURE(s.experts, s.n, s.k, tile.rows, tile.columns);
    CHECK(tile.swapped);
    CHECK(tile.rows == 16);
    CHECK(tile.columns == 128);
  }
}

// Two blocks a multiprocessor hide the end of one's tile behind the other's copies, where there are tiles for
// both (an H200: 2 to 4 % off); one product's few tiles keep a multiprocessor's memory to themselves.
TEST_CASE("two blocks of a multiprocessor share the experts' tiles of few rows", "[kernels]") {
  BlockGemm p;
  p.n = 2048;
  p.k = 768;
  p.rows = p.experts = 128;
  p.rows_each = 1;
  p.layout = BlockGemmExperts::contiguous;
  CHECK(block_gemm_tile(p, 132).blocks == 2);
  p.rows = 8;  // eight experts have 8 × 16 tiles
  CHECK(block_gemm_tile(p, 132).blocks == 1);
  p.rows = 128 * 256;
  p.rows_each = 256;
  CHECK(block_gemm_tile(p, 132).blocks == 1);
  BlockGemm dense;
  dense.n = 51200;
  dense.k = 5120;
  dense.rows = 1;
  CHECK(block_gemm_tile(dense, 132).blocks == 1);
}
