#include "calibrate/plan.h"

#include <map>
#include <numeric>
#include <set>

#include "calibrate/axes.h"
#include "calibrate/routing.h"
#include "catch.h"
#include "costmodel/hardware.h"

using namespace orrery;
using namespace orrery::calibrate;

namespace {

std::vector<Point> whole_plan(const std::vector<std::string>& models = {}) {
  const auto hardware = load_hardware("h200");
  REQUIRE(hardware.ok());
  PlanOptions options;
  options.demand.models = models;
  options.demand.memory_bytes = std::size_t{141} << 30;
  auto points = plan_points(*hardware, options);
  REQUIRE(points.ok());
  return *points;
}

}  // namespace

TEST_CASE("an axis is filled from its ends and middle inwards") {
  CHECK(axis_level(0, 24) == 0);
  CHECK(axis_level(23, 24) == 0);
  CHECK(axis_level(11, 24) == 0);
  CHECK(axis_level(5, 24) == 1);
  CHECK(axis_level(0, 1) == 0);
  CHECK(axis_level(1, 2) == 0);
  // Levels up to l leave no gap longer than n/2^(l+1), rounded up.
  for (int level = 0; level < 4; ++level) {
    std::size_t last = 0;
    for (std::size_t i = 0; i < gemm_rows.size(); ++i) {
      if (axis_level(i, gemm_rows.size()) > level) continue;
      CHECK(i - last <= (gemm_rows.size() >> (level + 1)) + 1);
      last = i;
    }
  }
}

TEST_CASE("values to test tables with lie between those that the tables are made from") {
  const Axes grid = grid_axes(), between = axes_between();
  for (const std::int64_t m : between.gemm_rows) {
    const auto above = std::upper_bound(grid.gemm_rows.begin(), grid.gemm_rows.end(), m);
    REQUIRE(above != grid.gemm_rows.begin());
    REQUIRE(above != grid.gemm_rows.end());
    CHECK(*(above - 1) < m);
  }
  CHECK(between.gemm_rows.size() == grid.gemm_rows.size() - 2);  // 23 gaps, the first without a whole number
  for (const std::int64_t bytes : between.collective_bytes) CHECK(bytes % 16 == 0);
  CHECK(between.prefill_contexts.front() == 0);
}

TEST_CASE("a plan of values between shares no timed shape with the plan itself") {
  PlanOptions options;
  options.demand.models = {"qwen3-8b"};
  auto hardware = load_hardware("h200");
  REQUIRE(hardware.ok());
  auto plan = plan_points(*hardware, options);
  REQUIRE(plan.ok());
  std::set<std::string> keys;
  for (const Point& p : *plan) keys.insert(p.key());
  options.demand.between = true;
  auto other = plan_points(*hardware, options);
  REQUIRE(other.ok());
  CHECK(other->size() > 200);
  std::set<std::string> tables;
  for (const Point& p : *other) {
    CHECK(keys.count(p.key()) == 0);
    tables.insert(p.table);
  }
  CHECK(tables == std::set<std::string>{"attention_decode", "attention_prefill", "collectives", "copy",
                                        "elementwise", "gemm"});
}

TEST_CASE("row patterns hold all rows, and are the same every time") {
  for (const RowPattern pattern :
       {RowPattern::routed, RowPattern::balanced, RowPattern::zipf, RowPattern::one_hot}) {
    const auto rows = expert_rows(pattern, 128, 8, 77);
    CHECK(std::accumulate(rows.begin(), rows.end(), std::int64_t{0}) == std::int64_t{77} * 8);
    CHECK(*std::max_element(rows.begin(), rows.end()) <= 77);
    CHECK(rows == expert_rows(pattern, 128, 8, 77));
  }
  const auto zipf = expert_rows(RowPattern::zipf, 128, 8, 1000),
             even = expert_rows(RowPattern::routed, 128, 8, 1000);
  CHECK(zipf[0] > 4 * even[0]);
}

TEST_CASE("names of rows read back as the same case") {
  for (const Point& p : whole_plan({"qwen3-8b", "qwen3-30b-a3b-fp8"})) {
    std::vector<std::string> columns{""};
    for (const char c : p.shape) {
      if (c == ',')
        columns.emplace_back();
      else
        columns.back() += c;
    }
    const auto spec = spec_of(p.table, columns);
    REQUIRE(spec.ok());
    CHECK(shape_of(*spec) == p.shape);
  }
  CHECK(rows_text({3, 0, 0, 0, 9}) == "3 3x0 9");
  CHECK(parse_rows("64x8").value() == std::vector<std::int64_t>(64, 8));
  CHECK(sequences_text({{2048, 0}, {512, 4096}, {512, 4096}}) == "2048@0 2x512@4096");
  CHECK_FALSE(parse_rows("3 x 4").ok());
  CHECK_FALSE(parse_sequences("12").ok());
  CHECK_FALSE(parse_sequences("0@4").ok());
}

TEST_CASE("the plan is the same every time, without repeats") {
  const auto a = whole_plan(), b = whole_plan();
  REQUIRE(a.size() == b.size());
  std::set<std::string> keys;
  for (std::size_t i = 0; i < a.size(); ++i) {
    CHECK(a[i].key() == b[i].key());
    keys.insert(a[i].key());
  }
  CHECK(keys.size() == a.size());
}

TEST_CASE("every prefix of the plan covers all operators coarsely before it refines one") {
  const auto plan = whole_plan();
  std::set<std::string> ops, early;
  for (const Point& p : plan) {
    if (p.table != "probes") ops.insert(p.spec.op);
  }
  std::size_t probes = 0;
  for (std::size_t i = 0; i < 300; ++i) {
    probes += plan[i].table == "probes" ? 1 : 0;
    if (plan[i].table != "probes") early.insert(plan[i].spec.op);
  }
  CHECK(early == ops);
  CHECK(probes == 4);
  // Rounds come in order, and the measured runs' GEMMs have both ends of their M axis in the first one.
  std::map<std::string, std::set<std::int64_t>> rows;
  for (std::size_t i = 1; i < plan.size(); ++i) {
    CHECK(plan[i].round >= plan[i - 1].round);
    if (plan[i].round == 0 && plan[i].table == "gemm")
      rows[std::to_string(plan[i].spec.n) + "x" + std::to_string(plan[i].spec.k)].insert(plan[i].spec.m);
  }
  CHECK(rows["6144x4096"].count(1) == 1);  // qkv of Qwen3-8B
  CHECK(rows["6144x4096"].count(16384) == 1);
  CHECK(rows["25600x5120"].size() >= 3);  // gate_up of Qwen3-32B on two GPUs
}

TEST_CASE("round 1 begins with the measured runs' grids, GEMMs first, and nothing long is planned") {
  const auto plan = whole_plan();
  std::vector<std::string> order;  // of tables, from the first point of round 1 on
  std::set<std::int64_t> rows;
  for (const Point& p : plan) {
    if (p.round == 1 && order.size() < 6 && (order.empty() || order.back() != p.table))
      order.push_back(p.table);
    if (p.round <= 1 && p.table == "gemm" && p.spec.n == 6144 && p.spec.k == 4096) rows.insert(p.spec.m);
    std::int64_t fresh = 0, context = 0;
    for (const auto& [added, before] : p.spec.sequences) {
      fresh += added;
      context += before;
    }
    CHECK(fresh <= 16384);
    CHECK(context <= 65536);
  }
  CHECK(order == std::vector<std::string>{"probes", "gemm", "attention_decode", "attention_prefill",
                                          "grouped_gemm", "elementwise"});
  CHECK(rows.size() == gemm_rows.size() + gemm_knees.size());
}

TEST_CASE("the plan holds the models' shapes at every width that divides them") {
  const auto plan = whole_plan({"qwen3-235b-a22b", "llama-3.1-70b"});
  std::set<std::string> keys;
  for (const Point& p : plan) keys.insert(p.key());
  CHECK(keys.count("gemm:bf16,64,10240,8192") == 1);  // llama qkv, tp 1
  CHECK(keys.count("gemm:bf16,64,1280,8192") == 1);   // tp 8
  CHECK(keys.count("attention_decode:bf16,bf16,8,1,128,64,4096") == 1);
  bool experts = false;
  for (const Point& p : plan)
    experts = experts || (p.table == "grouped_gemm" && p.spec.n == 768 && p.spec.k == 4096);
  CHECK(experts);  // gate and up of an expert, 2·1536/4
}

TEST_CASE("unknown models and operators are refused by name") {
  const auto hardware = load_hardware("h200");
  REQUIRE(hardware.ok());
  PlanOptions options;
  options.ops = {"gem"};
  options.demand.models = {"qwen3-8b"};
  const auto wrong = plan_points(*hardware, options);
  REQUIRE_FALSE(wrong.ok());
  CHECK(wrong.errors()[0].message.find("gemm") != std::string::npos);
  options.demand.models = {"qwen3-9b"};
  CHECK_FALSE(plan_points(*hardware, options).ok());
}
