#include "catch.h"

#include "support.h"
#include "workloads/trace_stats.h"

using namespace orrery;
using namespace orrery::test;

namespace {

TraceRequest at(double second, std::int32_t input, std::vector<std::uint64_t> ids = {}) {
  TraceRequest request;
  request.arrival = SimTime() + duration_from_seconds(second);
  request.prompt_tokens = input;
  request.output_tokens = 10 * input;
  request.hash_ids = std::move(ids);
  return request;
}

}  // namespace

TEST_CASE("rate, gaps and percentiles by hand") {
  TraceStats stats;
  // Gaps 1, 3, 2 s: mean 2, variance 2/3.
  for (const auto& [second, input] : {std::pair{10.0, 4}, {11.0, 1}, {14.0, 3}, {16.0, 2}})
    stats.add(at(second, input));
  CHECK(stats.requests() == 4);
  CHECK(stats.duration_s() == 6);
  CHECK(stats.rate() == 0.5);
  CHECK(stats.gap_cv() == Approx(0.408248290));
  CHECK(stats.input().mean == 2.5);
  CHECK(stats.input().min == 1);
  CHECK(stats.input().p50 == 3);  // index ⌊0.5 · 4⌋ = 2
  CHECK(stats.input().p90 == 4);
  CHECK(stats.output().max == 40);
}

TEST_CASE("a block is shared only behind a shared beginning") {
  TraceStats stats;
  stats.add(at(0, 1, {1, 2, 3}));
  stats.add(at(1, 1, {1, 2, 9}));  // two shared
  stats.add(at(2, 1, {8, 2, 3}));  // none: the first block is new
  CHECK(stats.prompt_blocks() == 9);
  CHECK(stats.shared_block_share() == Approx(2.0 / 9));
}

TEST_CASE("statistics of nothing and of one request are finite") {
  TraceStats stats;
  CHECK(stats.rate() == 0);
  CHECK(stats.input().max == 0);
  stats.add(at(5, 7));
  CHECK(stats.gap_cv() == 0);
  CHECK(stats.rate() == 0);
  CHECK(stats.input().p99 == 7);
  CHECK(stats.to_json()["shared_block_share"].is_null());
}
