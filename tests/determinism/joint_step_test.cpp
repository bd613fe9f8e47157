// What ranks of attention data parallelism agree on for a step, by hand, and what the step then costs. Every
// rule cites the engine's code; two mutants are caught here.
#include "../sim/ranks_world.h"
#include "catch.h"
#include "costmodel/padding.h"

using namespace orrery;

namespace {

StepShape prompt(const PrefillChunk& chunk) {
  StepShape shape;
  shape.prefill = std::span(&chunk, 1);
  return shape;
}

GraphPadding padding(std::int32_t ranks, double sum_bytes) {
  SchedulerSettings s;
  s.cudagraph_sizes = {1, 2, 4, 8};
  s.prefill_graph_sizes = {4, 8, 16, 32};
  s.graphs_by_phase = true;
  s.widest_padding = 2;
  s.joint = {.ranks = ranks, .rule = JointRule::sglang, .row_bytes = 100, .sum_bytes = sum_bytes};
  return GraphPadding(s);
}

}  // namespace

TEST_CASE("a joint step is as long as its slowest rank, and no rank is faster for the company of others") {
  const StepPricer pricer = StepPricer::create(world::rank_spec(4)).value();
  const StepShape a = hand::decode(8, 8000), b = hand::decode(8, 200000);
  const StepShape all_a[] = {a, a, a, a}, all_b[] = {b, b, b, b}, mixed[] = {a, b, a, a};
  CHECK(pricer.price_joint(all_a).busy == pricer.price(a).busy);
  CHECK(pricer.price_joint(mixed).busy == pricer.price_joint(all_b).busy);
  CHECK(pricer.price_joint(all_a).busy < pricer.price_joint(all_b).busy);
  const StepBreakdown parts = pricer.explain(b);
  std::int64_t sum = 0;
  for (const OpLine& line : parts.ops) sum += line.time_ns;
  CHECK(sum == pricer.price_joint(mixed).busy);
}

TEST_CASE(
    "decodes: all ranks take the largest one's graph; a small buffer is summed, a larger one gathered") {
  const StepShape ranks[] = {hand::decode(3, 30), hand::decode(5, 50)};
  const JointStep summed = padding(2, 1600).join(ranks), gathered = padding(2, 1599).join(ranks);
  for (const JointStep& step : {summed, gathered}) {
    CHECK(step.mode == GraphMode::full);
    CHECK(step.rank_tokens == 8);
    CHECK(step.gathered == 16);
  }
  CHECK(summed.by_sum);
  CHECK_FALSE(gathered.by_sum);
}

TEST_CASE("decodes beyond the graphs: the cheaper of equal shares and the sum") {
  const StepShape even[] = {hand::decode(10, 10), hand::decode(12, 12)};
  const JointStep equal = padding(2, 0).join(even);
  CHECK(equal.mode == GraphMode::none);
  CHECK_FALSE(equal.by_sum);
  CHECK(equal.gathered == 24);
  const StepShape uneven[] = {hand::decode(40, 40), StepShape{}, hand::decode(1, 1), StepShape{}};
  const JointStep sum = padding(4, 1e9).join(uneven);  // an idle rank: the size does not count
  CHECK(sum.by_sum);
  CHECK(sum.gathered == 41);
}

TEST_CASE("a prompt anywhere: one prefill graph for all, or everybody kernel by kernel") {
  const PrefillChunk chunk{.new_tokens = 20, .context = 0};
  const StepShape both[] = {prompt(chunk), hand::decode(7, 70)};
  const JointStep graph = padding(2, 0).join(both);
  CHECK(graph.mode == GraphMode::piecewise);
  CHECK(graph.rank_tokens == 32);
  CHECK(graph.gathered == 64);
  CHECK_FALSE(graph.by_sum);
  // One decode would be padded to 4, more than twice: it votes against. An idle rank cannot replay.
  for (const StepShape& other : {hand::decode(1, 70), StepShape{}}) {
    const StepShape ranks[] = {prompt(chunk), other};
    const JointStep eager = padding(2, 0).join(ranks);
    CHECK(eager.mode == GraphMode::none);
    CHECK(eager.by_sum);
    CHECK(eager.rank_tokens == 0);
    CHECK(eager.gathered == 20 + other.decode_sequences);
  }
}
