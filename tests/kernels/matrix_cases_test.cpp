// Kernels on matrix cores, each target's fragments emulated, against double-precision references.
#include "catch.h"
#include "kernels/attention_decode.h"
#include "kernels/case_table.h"
#include "kernels/run_case.h"

using namespace orrery::kernels;

namespace {

struct Experts {
  std::vector<std::int64_t> rows;
  std::int64_t n, k;
  Fill fill = Fill::random;
};

struct Product {
  std::int64_t m;                  // dense
  std::vector<std::int64_t> rows;  // of experts
  std::int64_t slots, n, k;
  Fill fill = Fill::random;
};

struct Context {
  std::vector<std::int64_t> tokens;
  std::int64_t heads, kv_heads;
  Fill fill = Fill::random;
};

struct Prompt {
  std::vector<std::pair<std::int64_t, std::int64_t>> sequences;
  std::int64_t heads, kv_heads;
  Fill fill = Fill::random;
};

void check(const char* op, const char* dtype, const Product& shape) {
  CaseSpec spec;
  spec.op = op;
  spec.dtype = dtype;
  spec.m = shape.m;
  spec.rows = shape.rows;
  spec.slots = shape.slots;
  spec.n = shape.n;
  spec.k = shape.k;
  spec.fill = shape.fill;
  CAPTURE(op, dtype, shape.m, shape.rows, shape.slots, shape.n, shape.k, static_cast<int>(shape.fill));
  CHECK(run_case(spec) == "");
}

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
    for (const Experts& shape : shapes)
      check("grouped_gemm", dtype, {0, shape.rows, 0, shape.n, shape.k, shape.fill});
  }
}

TEST_CASE("block GEMM agrees with its reference in every layout of rows", "[kernels]") {
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
    for (const Product& shape : shapes) check("block_gemm", dtype, shape);
  }
}

TEST_CASE("experts with weights of four bits agree with their reference", "[kernels]") {
  const std::vector<Product> shapes = {
      {0, {1}, 0, 8, 128},
      {0, {1, 0, 3, 0, 0, 16, 2}, 0, 130, 256},
      {0, {17, 31, 0, 5}, 0, 257, 384},  // primes; an odd n is stored by halves
      {0, {0, 0, 61, 40}, 0, 131, 128},
      {0, {0, 150, 0}, 0, 136, 256},
      {0, {0, 0}, 0, 192, 512},
      {0, {0, 150, 20}, 0, 136, 256, Fill::saturating},
      {0, {4, 0, 130}, 0, 136, 128, Fill::with_nan},
      {0, {4, 0, 9}, 0, 24, 256, Fill::zeros},
      {0, {5, 0, 24, 1}, 24, 136, 256},  // masked: what nobody uses must stay as it was
      {0, {100, 0, 3}, 110, 40, 128, Fill::with_nan},
  };
  for (const char* dtype : {"w4a8", "w4a16"}) {
    for (const Product& shape : shapes) check("grouped_gemm", dtype, shape);
  }
}

TEST_CASE("weights of four bits are refused where no group of 128 fits", "[kernels]") {
  CaseSpec spec;
  spec.op = "grouped_gemm";
  spec.dtype = "w4a8";
  spec.rows = {3, 1};
  spec.n = 16;
  spec.k = 192;
  CHECK(run_case(spec) == "refused: operator grouped_gemm in w4a8 needs n ≥ 1 and k, a multiple of 128");
  spec.k = 256;
  spec.slots = 2;
  CHECK(run_case(spec) == "refused: operator grouped_gemm in w4a8 needs with slots, rows of at most as many");
}

TEST_CASE("decode attention agrees with its reference", "[kernels]") {
  const std::vector<Context> shapes = {
      {{1}, 1, 1},
      {{1, 17, 64, 65, 1000, 3}, 8, 2},
      {{131, 7}, 40, 2},  // 20 query heads for a KV head: two tiles
      {{5003}, 16, 1},
      {{300, 20}, 8, 2, Fill::with_nan},
      {{300, 20}, 8, 2, Fill::saturating},
      {{300, 20}, 8, 2, Fill::zeros},
  };
  for (const char* kv_dtype : {"bf16", "fp8"}) {
    for (const std::int64_t head_dim : {64, 128}) {
      for (const Context& shape : shapes) {
        CaseSpec spec;
        spec.op = "attention_decode";
        spec.kv_dtype = kv_dtype;
        spec.contexts = shape.tokens;
        spec.heads = shape.heads;
        spec.kv_heads = shape.kv_heads;
        spec.head_dim = head_dim;
        spec.fill = shape.fill;
        CAPTURE(kv_dtype, head_dim, shape.tokens, shape.heads, static_cast<int>(shape.fill));
        CHECK(run_case(spec) == "");
      }
    }
  }
}

TEST_CASE("decode attention over a vectorised cache agrees with its reference", "[kernels]") {
  const std::vector<Context> shapes = {{{1, 17, 64, 65, 9}, 8, 2}, {{20, 131}, 4, 1, Fill::with_nan}};
  for (const char* kv_dtype : {"bf16", "fp8"}) {
    for (const std::int64_t head_dim : {64, 128}) {
      for (const Context& shape : shapes) {
        CaseSpec spec;
        spec.op = "attention_decode_vectorised";
        spec.kv_dtype = kv_dtype;
        spec.contexts = shape.tokens;
        spec.heads = shape.heads;
        spec.kv_heads = shape.kv_heads;
        spec.head_dim = head_dim;
        spec.fill = shape.fill;
        CAPTURE(kv_dtype, head_dim, shape.tokens, static_cast<int>(shape.fill));
        CHECK(run_case(spec) == "");
      }
    }
  }
}

TEST_CASE("the plan of decode attention covers every context once", "[kernels]") {
  for (const std::int64_t units : {1, 78, 132}) {
    for (const std::vector<std::int64_t>& contexts : {std::vector<std::int64_t>{1},
                                                      {131072},
                                                      {16, 17, 4096, 131071, 1},
                                                      std::vector<std::int64_t>(300, 777)}) {
      const DecodePlan plan = plan_attention_decode(contexts, 32, 8, units);
      std::vector<std::int64_t> covered(contexts.size()), slots(contexts.size());
      for (const DecodePiece& piece : plan.pieces) {
        CHECK(piece.first % 16 == 0);
        CHECK(piece.first < piece.end);
        CHECK(piece.slot < plan.slots);
        covered[static_cast<std::size_t>(piece.sequence)] += piece.end - piece.first;
        slots[static_cast<std::size_t>(piece.sequence)] += piece.slot >= 0;
      }
      CHECK(covered == contexts);
      for (const DecodeMerge& merge : plan.merges) {
        CHECK(merge.slots == slots[static_cast<std::size_t>(merge.sequence)]);
      }
    }
  }
}

TEST_CASE("prefill attention agrees with its reference", "[kernels]") {
  const std::vector<Prompt> shapes = {
      {{{1, 0}}, 1, 1},
      {{{1, 0}, {67, 0}, {131, 70}, {3, 500}, {64, 64}}, 6, 2},
      {{{131, 13}}, 20, 1},
      {{{37, 1003}}, 4, 2},
      {{{100, 20}, {7, 0}}, 8, 2, Fill::with_nan},
      {{{100, 20}}, 8, 2, Fill::saturating},
      {{{100, 20}}, 8, 2, Fill::zeros},
  };
  for (const std::int64_t head_dim : {64, 128}) {
    for (const Prompt& shape : shapes) {
      CaseSpec spec;
      spec.op = "attention_prefill";
      spec.sequences = shape.sequences;
      spec.heads = shape.heads;
      spec.kv_heads = shape.kv_heads;
      spec.head_dim = head_dim;
      spec.fill = shape.fill;
      CAPTURE(head_dim, shape.heads, shape.kv_heads, static_cast<int>(shape.fill));
      CHECK(run_case(spec) == "");
    }
  }
}
