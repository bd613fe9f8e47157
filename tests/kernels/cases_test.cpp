// Every operator of the case table in the simulator, against its double-precision reference, over random and
// adversarial shapes and operands.
#include <string>
#include <vector>

#include "catch.h"
#include "kernels/case_table.h"
#include "kernels/cpu_simulator.h"
#include "kernels/guarded_memory.h"
#include "kernels/specs.h"

using namespace orrery::kernels;

namespace {

constexpr Fill fills[] = {Fill::random, Fill::zeros, Fill::saturating, Fill::with_nan};

// Prepares, launches as often as asked and checks; the text says what went wrong.
std::string run_case(const CaseSpec& spec, int launches = 1) {
  std::string why;
  const auto kernel = make_case(spec, why);
  if (kernel == nullptr) return "refused: " + why;
  HostMemory memory;
  if (!kernel->prepare(memory, 1, why)) return "prepare: " + why;
  static_cast<void>(simulator::take_error());
  for (int i = 0; i < launches; ++i) kernel->launch(0, nullptr);
  if (const std::string error = simulator::take_error(); !error.empty()) return "simulator: " + error;
  if (!memory.guards_intact(why)) return "guards: " + why;
  const CheckResult result = kernel->check(memory);
  return result.passed ? "" : "check: " + result.detail;
}

CaseSpec rows_of(const char* op, std::int64_t m, std::int64_t n, const char* dtype = "bf16") {
  CaseSpec spec;
  spec.op = op;
  spec.m = m;
  spec.n = n;
  spec.dtype = dtype;
  return spec;
}

void check_all_fills(CaseSpec spec) {
  for (const Fill fill : fills) {
    spec.fill = fill;
    spec.seed = static_cast<std::uint64_t>(spec.m + 7 * spec.n);
    CAPTURE(spec.op, spec.m, spec.n, spec.dtype, spec.kv_dtype, spec.experts, static_cast<int>(fill));
    CHECK(run_case(spec) == "");
  }
}

const std::vector<const char*> fp8_dtypes = {"fp8-tensor", "fp8-channel", "fp8-block"};

}  // namespace

TEST_CASE("norms agree with their reference", "[kernels]") {
  for (const auto& [m, n] : {std::pair{1, 8}, {7, 128}, {3, 2056}, {2, 4096}, {1, 8200}}) {
    check_all_fills(rows_of("rms_norm", m, n));
    check_all_fills(rows_of("add_rms_norm", m, n));
  }
  check_all_fills(rows_of("add_rms_norm", 1, 32768));
  for (const char* dtype : fp8_dtypes) {
    for (const auto& [m, n] : {std::pair{1, 128}, {5, 2176}, {3, 4096}}) {
      check_all_fills(rows_of("add_rms_norm_quantize", m, n, dtype));
    }
  }
}

TEST_CASE("silu_mul and quantize agree with their reference", "[kernels]") {
  for (const auto& [m, n] : {std::pair{1, 8}, {13, 136}, {3, 1536}})
    check_all_fills(rows_of("silu_mul", m, n));
  for (const char* dtype : fp8_dtypes) {
    for (const auto& [m, n] : {std::pair{1, 128}, {7, 384}, {2, 3072}}) {
      check_all_fills(rows_of("silu_mul_quantize", m, n, dtype));
      check_all_fills(rows_of("quantize", m, n, dtype));
    }
  }
  check_all_fills(rows_of("quantize", 11, 8, "fp8-tensor"));
  check_all_fills(rows_of("quantize", 3, 8200, "fp8-channel"));
}

TEST_CASE("silu_mul leaves slots that nobody uses alone", "[kernels]") {
  for (const std::vector<std::int64_t>& rows : {std::vector<std::int64_t>{3, 0, 5, 1}, {0, 0}, {6}}) {
    for (const auto& [dtype, n] :
         {std::pair{"bf16", 136}, {"fp8-tensor", 136}, {"fp8-channel", 2056}, {"fp8-block", 384}}) {
      CaseSpec spec = rows_of(dtype[0] == 'b' ? "silu_mul" : "silu_mul_quantize", 0, n, dtype);
      spec.rows = rows;
      spec.slots = 6;
      spec.m = 6 * static_cast<std::int64_t>(rows.size());
      check_all_fills(spec);
    }
  }
}

TEST_CASE("rows are quantised on the way to their experts", "[kernels]") {
  for (const char* dtype : {"fp8-channel", "fp8-block"}) {
    for (const auto& [m, experts, k, block, slots] : {std::tuple{1, 1, 1, 16, 0},
                                                      {1, 128, 8, 16, 0},
                                                      {61, 8, 2, 1, 0},
                                                      {65, 60, 4, 64, 0},
                                                      {9, 8, 2, 16, 12},
                                                      {17, 4, 3, 16, 5}}) {  // too few slots: dropped
      CaseSpec spec = rows_of("permute_quantize", m, 256, dtype);
      spec.experts = experts;
      spec.top_k = k;
      spec.block_size = block;
      spec.slots = slots;
      check_all_fills(spec);
    }
  }
  CaseSpec spec = rows_of("permute_quantize", 2, 8200, "fp8-channel");
  spec.experts = spec.top_k = 2;
  CHECK(run_case(spec) == "");
  spec.dtype = "fp8-tensor";
  CHECK(run_case(spec).starts_with("refused: operator permute_quantize needs fp8-channel"));
}

TEST_CASE("rotary agrees with its reference", "[kernels]") {
  for (const char* op : {"rotary", "qk_norm_rotary"}) {
    for (const int head_dim : {64, 128, 256}) {
      CaseSpec spec = rows_of(op, 5, 0);
      spec.heads = 6;
      spec.kv_heads = 1;
      spec.head_dim = head_dim;
      check_all_fills(spec);
      spec.m = 1;
      spec.heads = 32;
      spec.kv_heads = 8;
      check_all_fills(spec);
    }
  }
}

TEST_CASE("router_topk agrees with its reference", "[kernels]") {
  for (const auto& [m, experts, k] : {std::tuple{1, 1, 1},
                                      {17, 8, 2},
                                      {5, 60, 4},
                                      {3, 128, 8},
                                      {4, 256, 8},
                                      {2, 512, 10},
                                      {3, 300, 32},
                                      {1, 33, 32}}) {
    CaseSpec spec = rows_of("router_topk", m, 0);
    spec.experts = experts;
    spec.top_k = k;
    check_all_fills(spec);
  }
}

TEST_CASE("routing by groups agrees with its reference", "[kernels]") {
  for (const char* op : {"router_grouped_topk", "router_grouped_topk_softmax"}) {
    for (const auto& [m, experts, k, groups, top] : {std::tuple{1, 2, 1, 1, 1},  // no groups
                                                     {9, 256, 8, 8, 4},          // DeepSeek-V3
                                                     {5, 160, 6, 8, 3},          // DeepSeek-V2
                                                     {3, 60, 4, 15, 2},  // groups of four, all of one taken
                                                     {2, 512, 32, 32, 2},
                                                     {130, 64, 6, 1, 1}}) {
      CaseSpec spec = rows_of(op, m, 0);
      spec.experts = experts;
      spec.top_k = k;
      spec.groups = groups;
      spec.top_groups = top;
      check_all_fills(spec);
    }
  }
  CaseSpec narrow = rows_of("router_grouped_topk", 1, 0);
  narrow.experts = 16;
  narrow.groups = 8;
  narrow.top_groups = 2;
  narrow.top_k = 5;  // two groups of two hold four
  CHECK(run_case(narrow).find("refused: operator router_grouped_topk needs") == 0);
}

TEST_CASE("norm, rotary and cache write in one agree with their reference", "[kernels]") {
  for (const char* kv_dtype : {"bf16", "fp8"}) {
    for (const auto& [m, heads, kv_heads, dim] :
         {std::tuple{1, 1, 1, 64}, {17, 6, 1, 128}, {5, 4, 2, 256}, {16, 8, 8, 64}}) {
      CaseSpec spec = rows_of("qk_norm_rotary_kv", m, 0);
      spec.heads = heads;
      spec.kv_heads = kv_heads;
      spec.head_dim = dim;
      spec.kv_dtype = kv_dtype;
      check_all_fills(spec);
    }
  }
}

TEST_CASE("sums of ranks with residual and norm agree with their reference", "[kernels]") {
  for (const std::int32_t ranks : {2, 4, 8}) {
    for (const auto& [m, n] : {std::pair{1, 8}, {3, 2056}, {2, 8200}}) {
      CaseSpec spec = rows_of("reduce_add_rms_norm", m, n);
      spec.ranks = ranks;
      check_all_fills(spec);
    }
    for (const char* dtype : fp8_dtypes) {
      CaseSpec spec = rows_of("reduce_add_rms_norm_quantize", 3, 2176, dtype);
      spec.ranks = ranks;
      check_all_fills(spec);
    }
  }
}

TEST_CASE("merged packets arrive whole, whatever their length", "[kernels]") {
  for (const auto& [m, bytes] : {std::pair{1, 1}, {37, 16}, {23, 2061}, {9, 16 * 64 * 4 * 2}, {300, 48}}) {
    CaseSpec spec;
    spec.op = "merge_packets";
    spec.m = m;
    spec.bytes = bytes;
    CAPTURE(m, bytes);
    CHECK(run_case(spec) == "");
  }
}

TEST_CASE("moe_align, moe_permute and moe_combine agree with their reference", "[kernels]") {
  for (const auto& [m, experts, k, block] : {std::tuple{1, 1, 1, 16},
                                             {1, 128, 8, 16},
                                             {61, 8, 2, 16},
                                             {65, 128, 8, 64},
                                             {200, 512, 8, 16},
                                             {257, 60, 4, 64}}) {
    CaseSpec spec = rows_of("moe_align", m, 8);
    spec.experts = experts;
    spec.top_k = k;
    spec.block_size = block;
    for (const char* op : {"moe_align", "moe_permute"}) {
      for (const Fill fill : {Fill::random, Fill::saturating}) {  // uniform; all tokens at the same experts
        spec.op = op;
        spec.fill = fill;
        CAPTURE(op, m, experts, k, block, static_cast<int>(fill));
        CHECK(run_case(spec) == "");
      }
    }
    spec.op = "moe_combine";
    check_all_fills(spec);
  }
  CaseSpec given = rows_of("moe_align", 10, 64);
  given.experts = 4;
  given.top_k = 2;
  given.rows = {3, 0, 17, 0};
  CHECK(run_case(given) == "");
  given.rows = {3, 0, 18, 0};
  CHECK(run_case(given).find("refused: operator moe_align needs") == 0);
}

TEST_CASE("kv_write agrees with its reference", "[kernels]") {
  for (const char* kv_dtype : {"bf16", "fp8"}) {
    for (const auto& [m, heads, dim] : {std::tuple{1, 1, 8}, {37, 2, 128}, {16, 8, 64}}) {
      CaseSpec spec = rows_of("kv_write", m, 0);
      spec.kv_heads = heads;
      spec.head_dim = dim;
      spec.kv_dtype = kv_dtype;
      check_all_fills(spec);
      if (dim % 16 != 0) continue;
      spec.op = "kv_write_vectorised";
      check_all_fills(spec);
    }
  }
}

TEST_CASE("gathers, logits and bandwidth kernels agree with their reference", "[kernels]") {
  for (const char* op : {"embedding", "gather_rows"}) {
    for (const auto& [m, n, k] : {std::tuple{1, 8, 1}, {13, 2048, 101}, {130, 40, 17}}) {
      CaseSpec spec = rows_of(op, m, n);
      spec.k = k;
      check_all_fills(spec);
    }
  }
  for (const auto& [m, n] : {std::pair{1, 8}, {3, 4104}}) check_all_fills(rows_of("logits_copy", m, n));
  for (const char* op : {"copy", "read", "write"}) {
    for (const std::int64_t bytes : {16, 8192, 16 * 4099}) {  // whatever is moved, it is moved as bits
      CaseSpec spec;
      spec.op = op;
      spec.bytes = bytes;
      CAPTURE(op, bytes);
      CHECK(run_case(spec) == "");
    }
  }
}

TEST_CASE("argmax and sample agree with their reference", "[kernels]") {
  for (const char* op : {"argmax", "sample"}) {
    for (const auto& [m, n] : {std::pair{1, 4}, {5, 1000}, {2, 18'992}}) check_all_fills(rows_of(op, m, n));
    CHECK(run_case(rows_of(op, 3, 5000), 2) == "");  // the second launch finds the workspace as the first did
  }
}

TEST_CASE("a kernel that did nothing fails every check", "[kernels]") {
  for (const CaseEntry& entry : case_table()) {
    if (!entry.simulated) continue;
    CAPTURE(entry.op);
    std::string why;
    const auto kernel = make_case(small_spec(entry.op), why);
    REQUIRE(kernel != nullptr);
    HostMemory memory;
    REQUIRE(kernel->prepare(memory, 1, why));
    CHECK(!kernel->check(memory).passed);
    CHECK(run_case(small_spec(entry.op)) == "");
  }
}

TEST_CASE("a case states its size and its work", "[kernels]") {
  for (const CaseEntry& entry : case_table()) {
    CAPTURE(entry.op);
    std::string why;
    const auto kernel = make_case(small_spec(entry.op), why);
    REQUIRE(kernel != nullptr);
    CHECK(kernel->bytes_per_set() > 0);
    CHECK(kernel->bytes() > 0);
    if (entry.simulated) CHECK(kernel->kernel().find("orrery.") == 0);
    CaseSpec empty;
    empty.op = entry.op;
    CHECK(make_case(empty, why) == nullptr);
    CHECK(why.find(std::string("operator ") + entry.op + " needs") == 0);
  }
}
