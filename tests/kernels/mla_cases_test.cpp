// Latent attention and what chooses its tokens, each target's fragments emulated, against double-precision
// references.
#include "catch.h"
#include "kernels/case_table.h"
#include "kernels/mla_decode.h"
#include "kernels/run_case.h"

using namespace orrery::kernels;

namespace {

struct Latents {
  std::vector<std::int64_t> tokens;
  std::int64_t heads, block_size;
  Fill fill = Fill::random;
};

}  // namespace

TEST_CASE("absorbed latent attention agrees with its reference", "[kernels]") {
  const std::vector<Latents> shapes = {
      {{1}, 1, 64},
      {{1, 33, 96, 3}, 16, 64},
      {{71}, 17, 1},  // two tiles of heads; blocks of one token
      {{210, 5}, 16, 16},
      {{40, 20}, 8, 64, Fill::with_nan},
      {{40, 20}, 8, 24, Fill::saturating},
      {{40}, 8, 64, Fill::zeros},
  };
  for (const char* kv_dtype : {"bf16", "fp8", "fp8_ds_mla"}) {
    for (const Latents& shape : shapes) {
      CaseSpec spec;
      spec.op = "mla_decode";
      spec.kv_dtype = kv_dtype;
      spec.contexts = shape.tokens;
      spec.heads = shape.heads;
      spec.block_size = shape.block_size;
      spec.fill = shape.fill;
      CAPTURE(kv_dtype, shape.tokens, shape.heads, static_cast<int>(shape.fill));
      CHECK(run_case(spec) == "");
    }
  }
}

TEST_CASE("the plan of latent attention covers every context once, in whole tiles", "[kernels]") {
  for (const std::vector<std::int64_t>& contexts : {std::vector<std::int64_t>{1},
                                                    {131072},
                                                    {64, 65, 4096, 131071, 1},
                                                    std::vector<std::int64_t>(300, 777)}) {
    const DecodePlan plan = plan_mla_decode(contexts, 128, mla_wgmma_heads, 132);
    std::vector<std::int64_t> covered(contexts.size());
    for (const DecodePiece& piece : plan.pieces) {
      CHECK(piece.first % 64 == 0);
      CHECK(piece.first < piece.end);
      covered[static_cast<std::size_t>(piece.sequence)] += piece.end - piece.first;
    }
    CHECK(covered == contexts);
  }
  // One long sequence fills the part: two tiles of heads, so half as many pieces as compute units.
  CHECK(plan_mla_decode({131072}, 128, mla_wgmma_heads, 132).pieces.size() > 60);
}

TEST_CASE("latent attention over picked tokens reads those and no others", "[kernels]") {
  for (const char* kv_dtype : {"bf16", "fp8", "fp8_ds_mla"}) {
    CaseSpec spec;
    spec.op = "mla_sparse_decode";
    spec.kv_dtype = kv_dtype;
    spec.contexts = {100, 7};
    spec.top_k = 48;
    spec.heads = 8;
    spec.block_size = 64;
    CAPTURE(kv_dtype);
    CHECK(run_case(spec) == "");
  }
}

TEST_CASE("prompts of expanded latents agree with their reference", "[kernels]") {
  using Sequences = std::vector<std::pair<std::int64_t, std::int64_t>>;
  const std::vector<std::pair<Sequences, Fill>> shapes = {
      {{{1, 0}, {37, 0}, {3, 70}}, Fill::random},
      {{{131, 13}}, Fill::random},
      {{{17, 15}}, Fill::saturating},
      {{{20, 15}}, Fill::with_nan},
  };
  for (const auto& [sequences, fill] : shapes) {
    CaseSpec spec;
    spec.op = "mla_prefill";
    spec.sequences = sequences;
    spec.heads = 2;
    spec.fill = fill;
    CAPTURE(static_cast<int>(fill), sequences.size());
    CHECK(run_case(spec) == "");
  }
}

TEST_CASE("scores of the indexer agree with their reference", "[kernels]") {
  for (const std::int64_t heads : {32, 64}) {
    for (const Fill fill : {Fill::random, Fill::zeros, Fill::saturating, Fill::with_nan}) {
      CaseSpec spec;
      spec.op = "index_scores";
      spec.contexts = {1, 150, 64, 17};
      spec.heads = heads;
      spec.block_size = fill == Fill::random ? 64 : 16;
      spec.fill = fill;
      CAPTURE(heads, static_cast<int>(fill));
      CHECK(run_case(spec) == "");
    }
  }
}

TEST_CASE("the indexer's choice is the best tokens, the earliest of equals", "[kernels]") {
  for (const Fill fill : {Fill::random, Fill::zeros, Fill::saturating, Fill::with_nan}) {  // zeros: all equal
    CaseSpec spec;
    spec.op = "index_topk";
    spec.contexts = {2500, 65, 64, 3};
    spec.top_k = 64;
    spec.block_size = 16;
    spec.fill = fill;
    CAPTURE(static_cast<int>(fill));
    CHECK(run_case(spec) == "");
  }
}
