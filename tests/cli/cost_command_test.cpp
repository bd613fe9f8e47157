// What `orrery cost` reads and writes.
#include <string>

#include "catch.h"
#include "cli/commands/cost_ops.h"
#include "cli/commands/cost_steps.h"
#include "cli/commands/cost_text.h"
#include "costmodel/hand_spec.h"
#include "costmodel/op_query.h"

using namespace orrery;

TEST_CASE("a step as people write it") {
  const auto step = parse_step("prefill 2048@0 + prefill 512@4096 + decode 64@1024");
  REQUIRE(step.ok());
  CHECK(step->chunks == std::vector<PrefillChunk>{{2048, 0}, {512, 4096}});
  CHECK(step->shape.decode_sequences == 64);
  CHECK(step->shape.decode_context_tokens == 64 * 1024);
  CHECK(step->view().prefill.size() == 2);
  CHECK(to_text(*step) == "prefill 2048@0 + prefill 512@4096 + decode 64@1024");
  CHECK(parse_step("decode 1@0+decode 3@ 100").ok());
  CHECK(parse_step(" decode\t2 @ 7 ").value().shape.decode_context_tokens == 14);
}

TEST_CASE("a step that is not one is wrong usage, and says what is expected") {
  for (const char* text :
       {"", "+", "decode", "decode 64", "decode 64@", "decode 0@10", "decode -1@10", "decode 1.5@10",
        "prefill 10@-1", "prefil 10@0", "prefill 10@0 +", "prefill 10@0 decode 1@1",
        "prefill 99999999999999999999@0", "decode 1@99999999999999999", "decode 0x10@1"}) {
    INFO(text);
    const auto step = parse_step(text);
    REQUIRE_FALSE(step.ok());
    CHECK(step.errors()[0].kind == ErrorKind::usage);
    CHECK(step.errors()[0].message.find("expected") != std::string::npos);
  }
}

TEST_CASE("a row of a step list") {
  const auto step = parse_step_row(
      R"({"prefill": [[2048, 0], [512, 4096]], "decode": {"sequences": 64, "context_tokens": 65536}})",
      "s.jsonl", 3);
  REQUIRE(step.ok());
  CHECK(step->chunks.size() == 2);
  CHECK(step->shape.decode_context_tokens == 65536);
  CHECK(parse_step_row(R"({"decode": {"sequences": 1, "context_tokens": 0}})", "s.jsonl", 1).ok());
  CHECK(parse_step_row(R"({"prefill": [[1, 5]]})", "s.jsonl", 1).ok());
}

TEST_CASE("a row that is not a step names its line and its key") {
  const auto fails = [](const char* row, const char* key) {
    INFO(row);
    const auto step = parse_step_row(row, "s.jsonl", 7);
    REQUIRE_FALSE(step.ok());
    CHECK(step.errors()[0].kind == ErrorKind::invalid_input);
    CHECK(step.errors()[0].where.file == "s.jsonl");
    CHECK(step.errors()[0].where.line == 7);
    CHECK(step.errors()[0].key == key);
  };
  fails("{}", "");  // an empty step
  fails(R"({"prefill": []})", "");
  fails(R"({"decode": {"sequences": 0, "context_tokens": 0}})", "");
  fails("[1, 2]", "");
  fails("{", "");
  fails(R"({"prefill": [[0, 0]]})", "prefill");
  fails(R"({"prefill": [[10]]})", "prefill");
  fails(R"({"prefill": [[10.5, 0]]})", "prefill");
  fails(R"({"prefill": [[10, -1]]})", "prefill");
  fails(R"({"prefill": [["10", 0]]})", "prefill");
  fails(R"({"prefil": [[10, 0]]})", "prefil");
  fails(R"({"decode": {"sequences": 4}})", "decode.context_tokens");
  fails(R"({"decode": {"sequences": 0, "context_tokens": 5}})", "decode.context_tokens");
  fails(R"({"decode": {"sequences": 4, "context_tokens": 5, "x": 1}})", "decode.x");
  fails(R"({"decode": {"sequences": 18446744073709551615, "context_tokens": 5}})", "decode.sequences");
}

TEST_CASE("microseconds are exact") {
  CHECK(microseconds_text(0) == "0.000");
  CHECK(microseconds_text(1) == "0.001");
  CHECK(microseconds_text(1234567) == "1234.567");
  CHECK(microseconds_text(-1050) == "-1.050");
}

TEST_CASE("operators by themselves") {
  const auto created = Roofline::create(hand::hardware());
  REQUIRE(created.ok());
  const auto price = [&](const char* row) {
    INFO(row);
    const auto query = parse_operator_row(row, "o.jsonl", 1);
    REQUIRE(query.ok());
    const auto priced = price_operator(*query, created.value());
    REQUIRE(priced.ok());
    CHECK(priced->low_ns < priced->ns);
    CHECK(priced->ns < priced->high_ns);
    return *priced;
  };
  // Examples of interfaces §7. 50 MB of weights at 0.9 · 5 TB/s, and the start of the kernel.
  const OpPrice gemm = price(R"({"op": "gemm", "m": 64, "n": 6144, "k": 4096, "dtype": "bf16"})");
  CHECK(gemm.cost.bytes >= 6144 * 4096 * 2);
  CHECK(gemm.ns == Approx(6144 * 4096 * 2 / 4500.0 + 3.0 * 1300).epsilon(0.1));
  const OpPrice grouped = price(R"({"op": "grouped_gemm", "rows": [3, 0, 9, 4], "n": 1536, "k": 2048})");
  CHECK(grouped.cost.flops == 2.0 * 16 * 1536 * 2048);
  CHECK(grouped.cost.bytes == 3.0 * 1536 * 2048 * 2);  // three experts have rows
  price(
      R"({"op": "attention_prefill", "heads": 32, "kv_heads": 8, "head_dim": 128, "sequences": [[2048, 0]]})");
  const OpPrice decode = price(
      R"({"op": "attention_decode", "heads": 32, "kv_heads": 8, "head_dim": 128, "batch": 64, "context": 4096})");
  CHECK(decode.cost.bytes == 64.0 * 4096 * 8 * 128 * 2 * 2);
  const OpPrice half = price(
      R"({"op": "attention_decode", "heads": 32, "kv_heads": 8, "head_dim": 128, "kv_dtype": "fp8", "contexts": [4096, 100]})");
  CHECK(half.cost.bytes == 4196.0 * 8 * 128 * 2);
  price(R"({"op": "all_reduce", "bytes": 1048576, "ranks": 2})");
  price(R"({"op": "all_to_all", "bytes": 1048576, "ranks": 8})");
  CHECK(price(R"({"op": "copy", "bytes": 1073741824})").ns == Approx(2 * 1073741824.0 / 4500).epsilon(0.01));
}

TEST_CASE("operators that cannot be priced are refused by name") {
  const auto created = Roofline::create(hand::hardware());
  REQUIRE(created.ok());
  const auto refused = [&](const char* row, const char* key) {
    INFO(row);
    const auto query = parse_operator_row(row, "o.jsonl", 1);
    const Errors errors = query.ok() ? price_operator(*query, created.value()).errors() : query.errors();
    CHECK(errors[0].key == key);
  };
  refused(R"({"op": "lora", "m": 1})", "op");
  refused(R"({"op": "gemm", "m": 64, "n": 64})", "k");
  refused(R"({"op": "gemm", "m": 64, "n": 64, "k": 64, "dtype": "fp7"})", "");
  refused(R"({"op": "gemm", "m": -1, "n": 64, "k": 64})", "m");
  refused(R"({"op": "gemm", "m": 1, "n": 64, "k": 64, "q": 3})", "q");
  refused(R"({"op": "grouped_gemm", "rows": [0, 0], "n": 64, "k": 64})", "rows");
  refused(R"({"op": "all_reduce", "bytes": 100, "ranks": 1})", "ranks");
  refused(
      R"({"op": "attention_decode", "heads": 6, "kv_heads": 4, "head_dim": 64, "batch": 1, "context": 1})",
      "kv_heads");
}

TEST_CASE("a decode of few sequences may have a long context; only their product is limited") {
  const auto row = [](const char* rest) {
    return parse_operator_row(
        std::string(R"({"op": "attention_decode", "heads": 32, "kv_heads": 8, "head_dim": 128, )") + rest,
        "o.jsonl", 1);
  };
  REQUIRE(row(R"("batch": 2, "context": 131072})").ok());
  CHECK(row(R"("batch": 2, "context": 131072})")->context_sum == 262144);
  CHECK_FALSE(row(R"("batch": 2147483647, "context": 131072})").ok());
}
