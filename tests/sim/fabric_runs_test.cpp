// Instances that stand on several nodes: what their collectives take, what they and KV on its way cost each
// other, and whole scenarios.
#include <algorithm>
#include <memory>

#include "catch.h"
#include "costmodel/collective.h"
#include "costmodel/hand_spec.h"
#include "costmodel/roofline.h"
#include "sim/costed/cost_model_executor.h"
#include "sim/costed/fabric_transport.h"
#include "sim/costed/plan_links.h"
#include "sim/costed/run.h"
#include "sim/fabric/presets.h"

using namespace orrery;

namespace {

fabric::Topology nodes(std::int32_t count, double gbps = 200) {
  return fabric::build_preset(
      {.preset = "hopper-8", .nodes = count, .nics_per_node = count > 1 ? 8 : 0, .nic_gbps = gbps});
}

// GPUs of two nodes on one switch without limits: no fabric at all.
fabric::Topology boundless() {
  fabric::Topology t;
  const DeviceId leaf = t.add_device({.name = "leaf", .kind = fabric::DeviceKind::leaf});
  for (std::int32_t i = 0; i < 24; ++i) {
    const DeviceId gpu = t.add_device(
        {.name = "gpu" + std::to_string(i), .kind = fabric::DeviceKind::gpu, .node = i / 8, .index = i % 8});
    t.add_link(gpu, leaf, fabric::LinkClass::network, INT64_C(1) << 60, INT64_C(1) << 60, SimDuration(0));
  }
  return t;
}

std::vector<DeviceId> gpus(const fabric::Topology& t, std::size_t from, std::size_t count) {
  const auto first = t.gpus().begin() + static_cast<std::ptrdiff_t>(from);
  return {first, first + static_cast<std::ptrdiff_t>(count)};
}

constexpr std::int32_t ranks = 16;
constexpr std::int32_t sequences = 256;  // of each rank: a captured size

// One decode instance of 16 ranks on nodes 0 and 1, and a prefill GPU on node 2.
struct Wide {
  explicit Wide(fabric::Topology fabric)
      : topology(std::move(fabric)),
        transport(topology,
                  {{.gpus = gpus(topology, 0, ranks), .bytes_per_block = 1'000'000, .ranks = ranks},
                   {.gpus = gpus(topology, 16, 1), .bytes_per_block = 1'000'000}},
                  {.kv_heads = 4}, SimDuration(0)) {
    spec = hand::instance(hand::mixture());
    spec.plan.dp = spec.plan.ep = ranks;
    spec.engine.settings.joint = {.ranks = ranks, .rule = JointRule::vllm, .row_bytes = 4096};
    spec.links = plan_links(topology, gpus(topology, 0, ranks), spec.plan).value();
    pricer = std::make_unique<StepPricer>(StepPricer::create(spec).value());
    executor = std::make_unique<CostModelExecutor>(std::vector<const StepPricer*>{pricer.get()}, oracle);
    fabric::Routes routes(topology);
    auto sides = link_sides(routes, topology, gpus(topology, 0, ranks), spec.plan, false).value();
    auto prefill = link_sides(routes, topology, gpus(topology, 16, 1), {}, false).value();
    shared = &transport.share({std::move(sides), std::move(prefill)},
                              [&](InstanceId i, SimTime at) { executor->cut(i, at); });
    executor->share_links(&transport, 0);
  }
  std::int32_t flows() const { return shared->flows_on(0, network_side()); }

  // One step in which all ranks decode; its device time.
  std::int64_t step(SimTime now) {
    submit(now);
    return finish();
  }
  void submit(SimTime now) {
    StepPlan plan;
    std::vector<RankPlan> parts(ranks, {.decode_sequences = sequences,
                                        .decode_context_tokens = sequences * 1000,
                                        .running = sequences,
                                        .runs = true});
    plan.decode_sequences = plan.running = ranks * sequences;
    plan.decode_context_tokens = ranks * sequences * 1000;
    plan.ranks = parts;
    executor->submit(StepId(next++), InstanceId(0), plan, now);
  }
  std::int64_t finish() {
    for (;;) {
      Outcomes outcomes;
      const SimTime at = executor->next_event();
      executor->collect(at, outcomes);
      if (outcomes.steps.empty()) continue;
      const StepStamp& stamp = outcomes.steps.front().last_stamp;
      last_end = at;
      return (stamp.device_end - stamp.device_begin).ns();
    }
  }
  void pull(std::int64_t blocks, SimTime now, std::int32_t rank = 3) {
    transport.begin({.request = RequestId(100 + requests++),
                     .from = InstanceId(1),
                     .to = InstanceId(0),
                     .blocks = blocks,
                     .to_rank = rank},
                    now);
  }
  SimTime arrival() {
    for (;;) {
      const SimTime now = transport.next_event();
      std::vector<KvPullDone> done;
      transport.collect(now, done);
      if (!done.empty()) return done.front().at;
    }
  }

  fabric::Topology topology;
  FabricTransport transport;
  InstanceSpec spec;
  std::unique_ptr<StepPricer> pricer;
  OutputLengths oracle;
  std::unique_ptr<CostModelExecutor> executor;
  SharedLinks* shared = nullptr;
  std::uint64_t next = 0, requests = 0;
  SimTime last_end;
};

// Of all layers: what goes to the experts and back, and its nanoseconds between nodes.
struct Exchange {
  double network_ns = 0, port_bytes = 0;
};
Exchange exchange(const Wide& wide) {
  const Roofline roofline = Roofline::create(wide.spec.hardware).value();
  const double rows = ranks * sequences;
  const double row[2] = {2048 * 2 + 8 * 8, 2048 * 2};  // hidden values and a weight and an index an expert;
                                                       // back
  Exchange sum;
  for (const int way : {0, 1}) {
    const auto what = way == 0 ? Collective::all_gather : Collective::reduce_scatter;
    const CollectiveWay& w = quickest_way(roofline, what, rows * row[way], wide.spec.links->data);
    REQUIRE(w.between_ns > w.inside_ns / 0.75);  // the network is the narrower
    sum.network_ns += 48 * rows * row[way] * w.between_ns;
    sum.port_bytes += 48 * rows * row[way] * w.network_share;
  }
  return sum;
}

constexpr double port = 25e9;  // bytes a second

}  // namespace

TEST_CASE("a KV transfer slows an all-to-all by the predicted amount, and a second one again [fabric_runs]") {
  Wide wide(nodes(3));
  const Exchange e = exchange(wide);
  const std::int64_t alone = wide.step(SimTime(0));
  CHECK(wide.step(wide.last_end) == alone);
  wide.pull(1'000'000, wide.last_end);  // 1 TB: 40 s
  const std::int64_t beside_one = wide.step(wide.last_end);
  CHECK(std::abs(static_cast<double>(beside_one - alone) - e.network_ns) < 2);
  std::int32_t pulls = 1;
  while (wide.flows() < 2) {  // two NICs reach a GPU by equal ways
    wide.pull(1'000'000, wide.last_end);
    ++pulls;
  }
  CHECK(pulls <= 3);
  CHECK(std::abs(static_cast<double>(wide.step(wide.last_end) - alone) - 2 * e.network_ns) < 2);
  wide.pull(1'000'000, wide.last_end, 12);  // to another node: its NIC has one flow, the fullest has two
  CHECK(std::abs(static_cast<double>(wide.step(wide.last_end) - alone) - 2 * e.network_ns) < 2);
}

TEST_CASE("the steps' bytes slow the transfer by what they put on its NIC [fabric_runs]") {
  Wide wide(nodes(3));
  const Exchange e = exchange(wide);
  const std::int64_t busy = wide.step(SimTime(0));
  const SimTime now = wide.last_end;
  Wide idle(nodes(3));
  idle.pull(1000, SimTime(0));  // 1 GB
  const double alone = static_cast<double>(idle.arrival().ns());
  CHECK(alone == Approx(1e9 / port * 1e9).epsilon(1e-3));
  const double demand = e.port_bytes / (static_cast<double>(busy) * 1e-9);
  REQUIRE(demand < port / 2);
  wide.submit(now);
  wide.pull(1000, now);
  const double latency = alone - 1e9 / port * 1e9;
  const double beside = static_cast<double>((wide.arrival() - now).ns());
  CHECK(beside == Approx(1e9 / (port - demand) * 1e9 + latency).epsilon(1e-6));
  // What steps want beyond half a NIC they do not get beside one flow.
  Wide greedy(nodes(3));
  greedy.shared->demand(0, network_side(), port, SimTime(0));
  greedy.pull(1000, SimTime(0));
  CHECK(static_cast<double>(greedy.arrival().ns()) == Approx(2e9 / port * 1e9).epsilon(1e-3));
}

TEST_CASE("a transfer that has arrived leaves steps as they were [fabric_runs]") {
  Wide wide(nodes(3));
  const std::int64_t alone = wide.step(SimTime(0));
  wide.pull(1000, wide.last_end);
  CHECK(wide.flows() == 1);
  const SimTime there = wide.arrival();
  CHECK(wide.flows() == 0);
  CHECK(wide.step(later(there, wide.last_end)) == alone);
}

TEST_CASE("a fabric without limits is none: transfers take no time, and slow nothing [fabric_runs]") {
  Wide wide(boundless());
  const std::int64_t alone = wide.step(SimTime(0));
  wide.pull(1'000'000, wide.last_end);
  CHECK(wide.step(wide.last_end) == alone);
  CHECK((wide.arrival() - SimTime(0)).ns() >= 0);
  Wide idle(boundless());
  idle.pull(1'000'000, SimTime(0));
  CHECK(idle.arrival().ns() <= 1000);  // 1 TB
  for (const auto& ways : wide.spec.links->data.ways)
    for (const CollectiveWay& way : ways)
      if (!way.name.ends_with(" LL"))
        CHECK(1e9 * way.between_ns < 1e3);  // a GB between nodes: below a microsecond
}

TEST_CASE("symmetric placements give equal links [fabric_runs]") {
  const fabric::Topology t = nodes(4);
  ParallelPlan plan;
  plan.dp = plan.ep = 16;
  const auto here = plan_links(t, gpus(t, 0, 16), plan).value(),
             there = plan_links(t, gpus(t, 16, 16), plan).value();
  CHECK(here->data == there->data);
  CHECK(here->all == there->all);
  CHECK(plan_links(t, gpus(t, 8, 8), plan).value() == nullptr);  // one node: nothing to say
}

TEST_CASE("an engine that turns NVLS off has no tree over switches that add up [fabric_runs]") {
  const fabric::Topology t = nodes(2);
  ParallelPlan plan;
  plan.tp = 16;
  const auto has = [&](bool multicast) {
    const auto links = plan_links(t, gpus(t, 0, 16), plan, 1, multicast).value();
    const std::vector<CollectiveWay>& ways = links->tensor.of(Collective::all_reduce);
    return std::any_of(ways.begin(), ways.end(), [](const auto& way) { return way.name == "NVLS tree"; });
  };
  CHECK(has(true));
  CHECK_FALSE(has(false));
}

TEST_CASE("ranks of context parallelism: neighbours in tp, or one of every copy [fabric_runs]") {
  const fabric::Topology t = nodes(2);
  ParallelPlan plan;
  plan.tp = 16;
  const auto eight = plan_links(t, gpus(t, 0, 16), plan, 8).value(),
             sixteen = plan_links(t, gpus(t, 0, 16), plan, 16).value();
  CHECK_FALSE(eight->context.crosses());
  CHECK(sixteen->context.nodes == 2);
  CHECK(sixteen->context == sixteen->tensor);
  plan.tp = 8, plan.cp = 2;  // a copy of attention a node
  const auto copies = plan_links(t, gpus(t, 0, 16), plan).value();
  CHECK_FALSE(copies->tensor.crosses());
  CHECK(copies->context.ranks == 2);
  CHECK(copies->context.nodes == 2);
  CHECK(copies->all.ranks == 16);
  CHECK(context_groups(gpus(t, 0, 16), plan, 1)[3] == std::vector<DeviceId>{t.gpus()[3], t.gpus()[11]});
}

TEST_CASE("which groups cross nodes follows from the order of ranks [fabric_runs]") {
  const fabric::Topology t = nodes(4);
  ParallelPlan plan;
  plan.tp = 8, plan.dp = 4;
  const auto inside = plan_links(t, gpus(t, 0, 32), plan).value();
  CHECK_FALSE(inside->tensor.crosses());
  CHECK(inside->data.nodes == 4);
  CHECK(inside->data.ranks == 4);
  plan.tp = 16, plan.dp = 1;
  const auto wide = plan_links(t, gpus(t, 0, 16), plan).value();
  CHECK(wide->tensor.nodes == 2);
  plan.tp = 4, plan.pp = 4;
  const auto staged = plan_links(t, gpus(t, 0, 16), plan).value();
  CHECK_FALSE(staged->tensor.crosses());
  REQUIRE(staged->handoff.size() == 4);
  CHECK_FALSE(staged->handoff[1].crosses());
  CHECK(staged->handoff[2].crosses());  // stages 0 and 1 fill the first node
  CHECK_FALSE(staged->handoff[3].crosses());
}

namespace {

Result<Scenario> load(std::vector<std::string> sets) {
  ScenarioOptions options;
  sets.emplace_back("workload.limit={requests: 120}");
  options.overrides = std::move(sets);
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-30b-a3b-h200-dp2.yaml", options);
}

std::string apart(const std::string& decode) {
  const std::string one = "hardware: h200, model: qwen3-30b-a3b, engine: vllm-0.24, ";
  return "deployment={topology: {preset: hopper-8, nodes: 3, nics_per_node: 8, nic_gbps: 400}, pools: [{" +
         one + "name: p, role: prefill, replicas: 2, parallel: {dp: 2, ep: 2}}, {" + one +
         "name: d, role: decode, " + decode + "}]}";
}

}  // namespace

TEST_CASE("a plan wider than a board is refused without a topology, and runs with one [fabric_runs]") {
  const auto refused = load({"deployment.parallel={dp: 16, ep: 16}"});
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.errors().front().key == "deployment.parallel");
  CHECK_THAT(refused.errors().front().message,
             Catch::Matchers::Contains("{preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: 400}"));
  const Scenario wide =
      load({"deployment.parallel={dp: 16, ep: 16}",
            "deployment.topology={preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: 400}"})
          .value();
  const RunResult r = run_scenario(wide).value();
  CHECK(r.completed == 120);
  CHECK_FALSE(r.transfers.on);
  // The breakdown says which collectives cross nodes, and the way they take.
  StepShape shape;
  shape.decode_sequences = 64;
  shape.decode_context_tokens = 64000;
  std::int64_t crossing = 0;
  for (const OpLine& line : StepPricer::create(wide.pool.instance).value().explain(shape).ops) {
    if (line.op_class != OpClass::collective) continue;
    ++crossing;
    CHECK_THAT(line.shape, Catch::Matchers::Contains("ranks=16 nodes=2 ring "));
    const bool compared = line.name == "dp_dispatch";  // an all-gather
    CHECK(line.error >= (compared ? across_error : unseen_error));
    if (compared) CHECK(line.error < unseen_error);
  }
  CHECK(crossing == 2);  // to the experts and back
}

TEST_CASE("stages on two nodes hand over through the NICs, stages in one do not [fabric_runs]") {
  const auto handoffs = [](const std::string& tp, const std::string& gbps) {
    ScenarioOptions options;
    options.overrides = {
        "deployment={hardware: h200, model: qwen3-32b, engine: vllm-0.24, parallel: {pp: 2, tp: " + tp +
        "}, topology: {preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: " + gbps + "}}"};
    const Scenario s =
        load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options).value();
    StepShape shape;
    const std::vector<PrefillChunk> chunks{{8192, 0}};
    shape.prefill = chunks;
    return StepPricer::create(s.pool.instance).value().explain(shape).stages.back().handoff_ns;
  };
  const std::int64_t fast = handoffs("8", "400"), slow = handoffs("8", "200");
  // Two tensors of 8,192 rows of 640 values of two bytes a GPU, each over a NIC of its own: 25 GB/s less.
  CHECK(static_cast<double>(slow - fast) ==
        Approx(2 * 8192 * 640 * 2 * (1 / 25e9 - 1 / 50e9) * 1e9).margin(2));
  CHECK(handoffs("4", "400") == handoffs("4", "200"));  // eight GPUs
}

TEST_CASE("a topology changes nothing of instances that stand in one node [fabric_runs]") {
  const Scenario without = load({}).value();
  const Scenario with = load({"deployment.topology={preset: hopper-8}"}).value();
  CHECK(run_scenario(with).value().digest == run_scenario(without).value().digest);
}

TEST_CASE("ranks that fetch for themselves: every prompt once, single steps alike [fabric_runs]") {
  const std::string experts =
      ", experts: {popularity: {zipf: 0.6}, routing: sampled, eplb: {policy: periodic, redundant: 16, "
      "every_steps: 100, window_steps: 50, nodes: 2}}";
  for (const std::string& more : {std::string(), experts}) {
    const Scenario s = load({apart("parallel: {dp: 16, ep: 16}" + more)}).value();
    const RunResult r = run_scenario(s).value();
    CHECK(r.completed == 120);
    CHECK(r.transfers.pulls == 120);
    CHECK(r.transfers.bytes > 0);
    CHECK(r.experts.on == !more.empty());
    RunOptions single;
    single.stretches = false;
    CHECK(run_scenario(s, single).value().digest == r.digest);
    CHECK(run_scenario(s).value().digest == r.digest);
  }
}

TEST_CASE("a hotspot of experts holds all ranks up, on either engine's rule [fabric_runs]") {
  const auto scenario = [](const std::string& file, const std::string& experts) {
    ScenarioOptions options;
    options.overrides = {"workload.limit={requests: 60}"};
    if (!experts.empty()) options.overrides.push_back("deployment.experts=" + experts);
    return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/" + file, options).value();
  };
  const auto prompts = [](const Scenario& s) {  // on every rank
    const std::vector<PrefillChunk> chunks{{4096, 0}};
    StepShape shape;
    shape.prefill = chunks;
    return static_cast<double>(StepPricer::create(s.pool.instance).value().price(shape).busy);
  };
  for (const std::string file : {"deepseek-v3-h200-dp8.yaml", "qwen3-30b-a3b-h200-dp2.yaml"}) {
    const Scenario even = scenario(file, ""), hot = scenario(file, "{popularity: {zipf: 1.5}}");
    CHECK(prompts(hot) > 1.04 * prompts(even));  // rows of the slowest rank decide
    const Scenario drawn = scenario(file, "{popularity: {zipf: 0.8}, routing: sampled}");
    const RunResult r = run_scenario(drawn).value();
    CHECK(r.completed == 60);
    CHECK(r.experts.balancedness < 1);
    RunOptions single;
    single.stretches = false;
    CHECK(run_scenario(drawn, single).value().digest == r.digest);
  }
}

TEST_CASE("the example: EP64 over eight nodes with prefill apart, from the file to the end [fabric_runs]") {
  ScenarioOptions options;
  options.overrides = {"workload.limit={requests: 400}"};
  const Scenario s =
      load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/deepseek-r1-h200-ep64-pd.yaml", options)
          .value();
  CHECK(s.gpus() == 96);
  CHECK(s.pool.instance.links == nullptr);  // a node each
  const InstanceSpec& decode = s.other_pools.front().instance;
  REQUIRE(decode.links != nullptr);
  CHECK(decode.links->data.nodes == 8);
  const RunResult r = run_scenario(s).value();
  CHECK(r.completed == 400);
  CHECK(r.transfers.pulls == 400);
  // Ranks that decode the same cost what one of them does; a rank without requests costs nothing more.
  const StepPricer pricer = StepPricer::create(decode).value();
  StepShape one;
  one.decode_sequences = one.running = 4;
  one.decode_context_tokens = 4000;
  std::vector<StepShape> all(64, one), few(64);
  few.front() = one;
  CHECK(pricer.price_joint(all).busy == pricer.price_joint(few).busy);
}
