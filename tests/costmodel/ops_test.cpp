// Single operators: tiles, waves, experts, the table.
#include <set>
#include <string>

#include "catch.h"
#include "costmodel/hand_spec.h"
#include "costmodel/moe.h"
#include "costmodel/op_table.h"
#include "costmodel/weight_format.h"

using namespace orrery;

TEST_CASE("distinct experts: k of one token, all in the limit") {
  CHECK(expected_distinct_experts(128, 8, 1) == Approx(8));
  CHECK(expected_distinct_experts(128, 8, 1e6) == Approx(128));
  // Monte-Carlo-free values of engine_semantics.md §5.2 (128 experts, 8 chosen; 128, 4).
  CHECK(round_half_even(expected_distinct_experts(128, 8, 4)) == 29);
  CHECK(round_half_even(expected_distinct_experts(128, 8, 16)) == 82);
  CHECK(round_half_even(expected_distinct_experts(128, 8, 64)) == 126);
  CHECK(round_half_even(expected_distinct_experts(128, 4, 16)) == 51);
  CHECK(expected_distinct_experts(8, 8, 1) == 8);
}

TEST_CASE("row tiles of a finite batch") {
  // One tile per expert that has rows; a whole number plus half a block once there are many.
  CHECK(expected_row_tiles(8, 8, 16) == 8);
  CHECK(expected_row_tiles(128, 128 * 640, 64) == Approx(1280 + 64));
  CHECK(moe_block_rows(64) == 16);
  CHECK(moe_block_rows(65) == 64);
}

TEST_CASE("matrix products pay whole tiles and whole waves") {
  const auto created = Roofline::create(hand::hardware());
  REQUIRE(created.ok());
  const Roofline& roofline = created.value();
  const auto ns = [&](std::int64_t m, std::int64_t n) {
    return roofline.tiled_ns(m, n, 4096, DType::bf16, 1.0);
  };
  // 132 tiles of 128×256 fill the device; one more row of tiles starts another wave.
  CHECK(ns(128, 132 * 256) == Approx(2.0 * 128 * 132 * 256 * 4096 / 1e6));
  CHECK(ns(129, 132 * 256) > 1.3 * ns(128, 132 * 256));
  CHECK(ns(1, 4096) == ns(64, 4096));  // a row tile is the least there is
  for (std::int64_t m = 1; m < 5000; m += 7) {
    REQUIRE(ns(m, 6144) >= (1 - 1e-12) * 2 * static_cast<double>(m) * 6144 * 4096 / 1e6);  // never above the
                                                                                           // peak
    REQUIRE(ns(m + 7, 6144) >= ns(m, 6144));
  }
}

// Marlin: gptq_marlin.cu, thread_m_blocks.
TEST_CASE("products of four-bit weights pay for sixteen rows at a time, and for no wave") {
  HardwareProfile part = hand::hardware();
  part.vendor = "nvidia";
  const auto created = Roofline::create(part);
  REQUIRE(created.ok());
  const Roofline& roofline = created.value();
  const auto format = named_weight_format("int4", roofline);
  REQUIRE(format.ok());
  OpSpec spec;
  spec.n = 6144, spec.k = 4096, spec.format = *format;
  const auto product = make_gemm(spec, roofline);
  const auto compute = [&](std::int64_t m) {
    StepInput input;
    input.tokens = m;
    return product->cost(input).compute_ns;
  };
  CHECK(compute(16) == Approx(compute(1)));
  // Beside it the weights are turned into 16 bits once for every batch.
  const double sixteen = compute(17) - compute(16);
  CHECK(sixteen > 0);
  CHECK(compute(64) - compute(16) == Approx(3 * sixteen));
  CHECK(compute(65) - compute(64) == Approx(4 * sixteen));
  const double peak = roofline.matrix_rate(format->math);
  for (std::int64_t m = 1; m < 300; m += 7) {
    REQUIRE(compute(m) >= 2.0 * static_cast<double>(m) * 6144 * 4096 / peak);
    REQUIRE(compute(m + 7) >= compute(m));
  }
}

TEST_CASE("every operator of the table has a name of its own, words and a maker") {
  std::set<std::string> names;
  for (const OperatorEntry& entry : operator_table()) {
    CHECK(names.insert(entry.name).second);
    CHECK(std::string(entry.description).size() > 10);
    CHECK(entry.make != nullptr);
    CHECK(find_operator(entry.name) == &entry);
  }
  CHECK(find_operator("lora") == nullptr);
}

TEST_CASE("formats of weights by the names of interfaces §7") {
  const auto roofline = Roofline::create(hand::hardware());
  REQUIRE(roofline.ok());
  const auto block = named_weight_format("fp8-block", roofline.value());
  REQUIRE(block.ok());
  CHECK(block->math == DType::fp8);
  CHECK(block->activation_bytes == 1);
  const auto weight_only = named_weight_format("w4a16", roofline.value());
  REQUIRE(weight_only.ok());
  CHECK(weight_only->math == DType::bf16);
  CHECK(weight_only->activation_bytes == 2);
  const auto unknown = named_weight_format("fp8-blok", roofline.value());
  REQUIRE_FALSE(unknown.ok());
  CHECK(unknown.errors()[0].message.find("fp8-block") != std::string::npos);
}
