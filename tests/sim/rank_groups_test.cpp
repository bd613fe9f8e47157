// SGLang's attention data parallelism with several GPUs a rank (tp > 1): what the way to the tokens of all
// ranks and back becomes, and what of a rank is shared out. Rules of sglang 0.5.23, file and function at
// each.
#include <map>

#include "../sanitized.h"
#include "catch.h"
#include "conservation.h"
#include "costmodel/padding.h"
#include "ranks_world.h"
#include "sim/costed/run.h"

using namespace orrery;

namespace {

InstanceSpec groups(std::int32_t tp, std::int32_t dp, double sum_bytes) {
  InstanceSpec spec = world::rank_spec(dp);
  spec.plan = {};
  spec.plan.tp = tp;
  spec.plan.dp = dp;
  spec.plan.ep = tp * dp;
  spec.engine.settings.joint.width = tp;
  spec.engine.settings.joint.sum_bytes = sum_bytes;
  return spec;
}

std::map<std::string, OpLine> lines_of(const InstanceSpec& spec, const StepShape& shape) {
  const StepPricer pricer = StepPricer::create(spec).value();
  std::map<std::string, OpLine> lines;
  for (const OpLine& line : pricer.explain(shape).ops) lines[line.name] = line;
  return lines;
}

Scenario example(std::vector<std::string> more) {
  ScenarioOptions options;
  options.overrides = {"workload.limit={requests: 150}"};
  options.overrides.insert(options.overrides.end(), more.begin(), more.end());
  auto s = load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/deepseek-v3-h200-dp8.yaml", options);
  if (!s.ok()) FAIL(to_string(s.errors()));
  return std::move(s).value();
}

}  // namespace

// forward_batch_info.py, prepare_mlp_sync_batch: ceil_align(global_num_tokens[i], attn_tp_size), before the
// mode is chosen; the head's rows are not aligned.
TEST_CASE("a rank's tokens are padded to a multiple of its GPUs") {
  SchedulerSettings s;
  s.cudagraph_sizes = {4, 8};
  s.graphs_by_phase = true;
  s.widest_padding = 2;
  s.joint = {.ranks = 2, .rule = JointRule::sglang, .row_bytes = 100, .sum_bytes = 2400, .width = 4};
  const GraphPadding padding(s);
  const StepShape few[] = {hand::decode(3, 30), hand::decode(1, 10)};
  CHECK(padding.join(few).rank_tokens == 4);
  const StepShape many[] = {hand::decode(9, 90), hand::decode(10, 100)};
  const JointStep step = padding.join(many);  // 12 and 12 rows: 24 · 100 bytes just fit
  CHECK(step.by_sum);
  CHECK(step.gathered == 24);
  CHECK(step.gathered_rows == 19);
  CHECK(padding.pad(many[0], step).tokens == 12);
  s.joint.sum_bytes = 2399;
  const JointStep even = GraphPadding(s).join(many);
  CHECK_FALSE(even.by_sum);
  CHECK(even.rank_tokens == 12);
}

// layer_boundary/prepare.py, _dp_gather_sum_read; layers/dp_attention.py, _dp_gather_via_all_gather and
// dp_reduce_scatter_tensor.
TEST_CASE("equal shares: summed inside a rank, gathered from all, scattered back, gathered inside a rank") {
  const StepShape decode = hand::decode(32, 32 * 1000);
  auto lines = lines_of(groups(2, 4, 0), decode);
  CHECK(lines.count("attention_all_reduce") == 0);
  CHECK(lines.count("moe_all_reduce") == 0);
  // Of 2048 hidden values in two bytes: 32 rows of a rank, 128 of all.
  CHECK(lines.at("dp_part_reduce_scatter").shape == "bytes=131072 ranks=2");
  CHECK(lines.at("dp_all_gather").shape == "bytes=524288 ranks=8");
  CHECK(lines.at("dp_reduce_scatter").shape == "bytes=524288 ranks=8");
  CHECK(lines.at("dp_part_all_gather").shape == "bytes=131072 ranks=2");
  CHECK(lines.at("post_norm").shape.find("rows=128 ") == 0);  // behind the gather, for all
  CHECK(lines.at("input_norm").shape.find("rows=32 ") == 0);
  CHECK(lines.at("embedding_all_reduce").shape == "bytes=131072 ranks=2");
  CHECK(lines.at("dp_residual_out").count == 2 * 48);
}

TEST_CASE("by sum the all-reduce of all ranks adds a rank's parts up too: nothing moves inside a rank") {
  const StepShape decode = hand::decode(32, 32 * 1000);
  auto lines = lines_of(groups(2, 4, 1e9), decode);
  CHECK(lines.count("dp_part_reduce_scatter") == 0);
  CHECK(lines.count("dp_part_all_gather") == 0);
  CHECK(lines.at("dp_all_reduce").shape == "bytes=524288 ranks=8");
  CHECK(lines.at("dp_copy_in").shape.find("rows=32 ") == 0);
  auto alone = lines_of(groups(1, 4, 1e9), decode);
  CHECK(alone.at("post_norm").shape.find("rows=32 ") == 0);  // one GPU a rank: before the gather
  CHECK(alone.count("dp_residual_out") == 0);
}

TEST_CASE("two GPUs a rank halve its attention and its heads' keys and values, not what all share") {
  const StepShape decode = hand::decode(64, 64 * 8000);
  auto one = lines_of(groups(1, 4, 0), decode), two = lines_of(groups(2, 4, 0), decode);
  const auto ns = [](const OpLine& line) { return static_cast<double>(line.time_ns); };
  CHECK(ns(two.at("attention_decode")) == Approx(ns(one.at("attention_decode")) / 2).epsilon(0.05));
  CHECK(ns(two.at("o_proj")) < ns(one.at("o_proj")));
  CHECK(ns(two.at("moe_gate_up")) < ns(one.at("moe_gate_up")));  // over twice the GPUs
  const StepPricer pricer = StepPricer::create(groups(2, 4, 0)).value();
  const StepBreakdown step = pricer.explain(decode);
  std::int64_t sum = 0;
  for (const OpLine& line : step.ops) sum += line.time_ns;
  CHECK(sum == step.timing.busy);
}

TEST_CASE("random worlds with two GPUs a rank: nothing leaks, stretches decide what single steps decide") {
  world::Visited visited;
  constexpr std::uint64_t worlds = sanitized ? 10 : 40;
  for (std::uint64_t seed = 1; seed <= worlds; ++seed) {
    auto [w, requests] = world::random_rank_world(seed);
    w.spec.plan.tp = 2;
    w.spec.plan.ep = w.spec.plan.mlp_ranks();
    w.spec.engine.settings.joint.width = 2;
    std::erase_if(w.spec.engine.settings.cudagraph_sizes, [](std::int64_t size) { return size % 2 != 0; });
    CAPTURE(seed);
    const auto refused = [limit = w.config.max_model_len](const TraceRequest& q) {
      return q.prompt_tokens + q.max_output_tokens > limit;
    };
    world::check_conservation(w, requests, refused, visited);
    const RunResult together = world::run(w, requests);
    w.config.stretches = false;
    REQUIRE(world::run(w, requests).digest == together.digest);
  }
  CHECK(visited.stretches > worlds);
}

TEST_CASE("the example with four ranks of two GPUs: shares, memory, from the file to the digest") {
  const Scenario s = example({"deployment.parallel={tp: 2, dp: 4, ep: 8}"});
  const SchedulerSettings& settings = s.pool.instance.engine.settings;
  CHECK(settings.options.integer("chunked_prefill_size") == 8192 / 4);
  // base_cuda_graph_runner.py, get_batch_sizes_to_capture: multiples of attn_tp_size only.
  REQUIRE_FALSE(settings.cudagraph_sizes.empty());
  for (const std::int64_t size : settings.cudagraph_sizes) CHECK(size % 2 == 0);
  const Scenario eight = example({"deployment.parallel={tp: 1, dp: 8, ep: 8}"});
  const Scenario tensor = example({"deployment.parallel={tp: 8, ep: 8}"});
  const double w2 = s.pool.memory.weights.value(), w8 = eight.pool.memory.weights.value(),
               w1 = tensor.pool.memory.weights.value();
  // Attention and embedding: an eighth, a half and the whole of one copy.
  CHECK((w2 - w1) / (w8 - w1) == Approx((0.5 - 0.125) / (1 - 0.125)).epsilon(1e-3));
  RunOptions single;
  single.stretches = false;
  const RunResult a = run_scenario(s, {}).value(), b = run_scenario(s, single).value();
  CHECK(a.completed == 150);
  CHECK(a.digest == b.digest);
  CHECK(a.pools.front().gpus_per_instance == 8);
  CHECK(a.pools.front().ranks == 4);
}
