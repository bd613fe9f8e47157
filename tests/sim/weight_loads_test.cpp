// Weights of instances that start, over the links that everybody shares: times by hand.
#include "sim/costed/weight_loads.h"

#include "catch.h"
#include "example_scenario.h"
#include "sim/costed/fabric_transport.h"
#include "sim/costed/faults.h"
#include "sim/costed/run.h"
#include "sim/fabric/presets.h"

using namespace orrery;

namespace {

// `replicas` of one GPU each on nodes with one NIC of 400 Gb/s.
Result<Scenario> load(
    const std::string& start, const std::string& faults, int replicas = 2,
    const std::string& topology = "{preset: hopper-8, nodes: 2, nics_per_node: 1, nic_gbps: 400}") {
  ScenarioOptions options;
  options.overrides = {
      "deployment={hardware: h200, model: qwen3-8b, engine: vllm-0.24, replicas: " +
          std::to_string(replicas) + (topology.empty() ? "" : ", topology: " + topology) +
          ", start: " + start + "}",
      "workload={generator: {requests: 100, arrivals: {process: poisson, rate: 10}, input: {distribution: "
      "fixed, value: 500}, output: {distribution: fixed, value: 20}}}",
      "faults=" + faults};
  return load_scenario(std::string(ORRERY_SOURCE_DIR) + "/examples/qwen3-8b-h200.yaml", options);
}

std::string failing(int instance) {
  return "{at_s: 2, kind: gpu, target: {instance: " + std::to_string(instance) + "}, for_s: 1}";
}

struct Starts {
  std::vector<double> s;  // by instance, of its first start
  double weights = 0;
  RunResult run;
};
Starts starts(const Result<Scenario>& scenario) {
  if (!scenario.ok()) FAIL(scenario.errors().front().message);
  RunOptions single;
  single.stretches = false;
  Starts out;
  out.run = run_scenario(*scenario).value();
  CHECK(run_scenario(*scenario, single).value().digest == out.run.digest);
  CHECK(out.run.completed == 100);
  out.weights = scenario->pool.memory.weights.value();
  out.s.assign(9, -1);
  for (const FleetResult::Stay& stay : out.run.fleet.stays)
    if (stay.state == InstanceState::starting && out.s[stay.instance.value()] < 0)
      out.s[stay.instance.value()] = (stay.end - stay.begin).seconds();
  return out;
}

}  // namespace

TEST_CASE("two instances that start behind one NIC take twice as long over their weights [loads]") {
  const std::string start = "{engine_s: 1, load_gb_per_s: 1000, from: storage}";
  const Starts one = starts(load(start, "[" + failing(0) + "]"));
  CHECK(one.s[0] == Approx(1 + one.weights / 50e9).epsilon(1e-3));
  const Starts two = starts(load(start, "[" + failing(0) + ", " + failing(1) + "]"));
  CHECK(two.s[0] == Approx(1 + 2 * two.weights / 50e9).epsilon(1e-3));
  CHECK(two.s[1] == Approx(two.s[0]));
  // On nodes of their own each has its own NIC: the ninth GPU stands on the second.
  const Starts apart = starts(load(start, "[" + failing(0) + ", " + failing(8) + "]", 9));
  CHECK(apart.s[0] == Approx(1 + apart.weights / 50e9).epsilon(1e-3));
  CHECK(apart.s[8] == Approx(apart.s[0]));
}

TEST_CASE("a server, or a node's disk, shares its rate among those who load from it [loads]") {
  for (const std::string from : {"storage", "host"}) {
    CAPTURE(from);
    const std::string start = "{engine_s: 1, load_gb_per_s: 4, from: " + from + "}";
    const Starts two = starts(load(start, "[" + failing(0) + ", " + failing(1) + "]"));
    CHECK(two.s[0] == Approx(1 + 2 * two.weights / 4e9).epsilon(1e-3));
    const Starts alone =
        starts(load("{engine_s: 1, load_gb_per_s: 4}", "[" + failing(0) + ", " + failing(1) + "]"));
    CHECK(alone.s[0] == Approx(1 + alone.weights / 4e9));  // a source for each
  }
}

TEST_CASE("weights from a peer come over NVLink; where none is up, as alone [loads]") {
  const std::string start = "{engine_s: 1, load_gb_per_s: 4, from: peer}";
  const Starts peer = starts(load(start, "[" + failing(0) + "]"));
  CHECK(peer.s[0] == Approx(1 + peer.weights / 450e9).epsilon(1e-3));
  // Both are gone for a second: the first has nobody to load from, nor has the second.
  const Starts none = starts(load(start, "[" + failing(0) + ", " + failing(1) + "]"));
  CHECK(none.s[0] == Approx(1 + none.weights / 4e9));
  CHECK(none.s[1] == none.s[0]);
  // Two from one take twice as long. A peer that is lost meanwhile is left for another one.
  const Starts two = starts(load(start, "[" + failing(0) + ", " + failing(1) + "]", 3));
  CHECK(two.s[0] == Approx(1 + 2 * two.weights / 450e9).epsilon(1e-3));
}

TEST_CASE(
    "a peer that is lost while weights come from it: another one gives them from the beginning [loads]") {
  // 20 of NVLink's 36 ms into the load of instance 0 from 1 that one is lost.
  const Starts moved =
      starts(load("{engine_s: 1, load_gb_per_s: 4, from: peer}",
                  "[" + failing(0) + ", {at_s: 3.02, kind: gpu, target: {instance: 1}, for_s: 1}]", 3));
  CHECK(moved.s[0] == Approx(1 + 0.02 + moved.weights / 450e9).epsilon(1e-3));
}

TEST_CASE("a peer whose way is cut: another one gives the weights, or it waits for the link [loads]") {
  const std::string start = "{engine_s: 1, load_gb_per_s: 4, from: peer}";
  const std::string cut = "{at_s: 3.1, kind: nic, target: node1.nic0, for_s: 5}";
  // Instance 8, the first on the second node, loads from instance 0 over the NICs until they are cut.
  const Starts alone = starts(load(start, "[" + failing(8) + ", " + cut + "]", 9));
  CHECK(alone.s[8] == Approx(1 + alone.weights / 50e9 + 5).epsilon(1e-3));
  const Starts moved = starts(load(start, "[" + failing(8) + ", " + cut + "]", 10));
  CHECK(moved.s[8] == Approx(1 + 0.1 + moved.weights / 450e9).epsilon(1e-3));
  // Cut before it begins, it takes the other one at once.
  const std::string before = "{at_s: 2.5, kind: nic, target: node1.nic0, for_s: 9}";
  const Starts never = starts(load(start, "[" + failing(8) + ", " + before + "]", 10));
  CHECK(never.s[8] == Approx(1 + never.weights / 450e9).epsilon(1e-3));
}

TEST_CASE("a load whose link is cut waits for the link [loads]") {
  const Starts cut =
      starts(load("{engine_s: 1, load_gb_per_s: 1000, from: storage}",
                  "[" + failing(0) + ", {at_s: 3.1, kind: nic, target: node0.nic0, for_s: 5}]"));
  CHECK(cut.s[0] == Approx(1 + cut.weights / 50e9 + 5).epsilon(1e-3));
}

TEST_CASE("a load that is stuck for good is no hope: requests fail, and the run ends [loads]") {
  const std::string begin = "{engine_s: 1, load_gb_per_s: 1000, from: storage";
  const std::string cut = ", {at_s: 2.5, kind: nic, target: node0.nic0";
  const auto run = [](const Result<Scenario>& scenario) {
    if (!scenario.ok()) FAIL(scenario.errors().front().message);
    const RunResult r = run_scenario(*scenario).value();
    CHECK(r.completed + r.fleet.requests_failed == 100);
    return r;
  };
  // The link goes before the load begins, or while it is under way (from 3 s for 0.3 s).
  for (const std::string& way : {cut + "}]", std::string(", {at_s: 3.1, kind: nic, target: node0.nic0}]")}) {
    CAPTURE(way);
    const RunResult stuck = run(load(begin + "}", "[" + failing(0) + way, 1));
    CHECK(stuck.fleet.requests_failed > 50);
    // So with an autoscaler, whose other instance stands behind the same NIC,
    const RunResult scaled =
        run(load(begin + "}, autoscale: {max: 2, target: 1000}", "[" + failing(0) + way, 1));
    CHECK(scaled.fleet.requests_failed == stuck.fleet.requests_failed);
    CHECK(scaled.fleet.restarts == 2);
    // and with another cut, elsewhere, that is mended: they fail when it is.
    const RunResult later = run(load(
        begin + "}", "[" + failing(0) + ", {at_s: 2.4, kind: nic, target: node1.nic0, for_s: 9}" + way, 1));
    CHECK(later.fleet.requests_failed == stuck.fleet.requests_failed);
  }
  // Mended late, all are served.
  CHECK(run(load(begin + "}", "[" + failing(0) + cut + ", for_s: 20}]", 1)).completed == 100);
}

TEST_CASE("a storage server stands behind every spine: another gives what one cannot reach [loads]") {
  const std::string spines =
      "{preset: hopper-8, nodes: 2, nics_per_node: 1, nic_gbps: 400, nodes_per_leaf: 1, spines: 2}";
  for (const std::string cut : {"spine0", "spine1"}) {
    CAPTURE(cut);
    const Starts around = starts(load("{engine_s: 1, load_gb_per_s: 1000, from: storage}",
                                      "[" + failing(0) + ", {at_s: 2.5, kind: link, target: [leaf0, " + cut +
                                          "]}, {at_s: 2.5, kind: link, target: [leaf1, " + cut + "]}]",
                                      1, spines));
    CHECK(around.s[0] == Approx(1 + around.weights / 25e9).epsilon(1e-3));
  }
}

TEST_CASE("KV beside a load has its share of the NIC, by hand [loads]") {
  const fabric::Topology t =
      fabric::build_preset({.preset = "hopper-8", .nodes = 2, .nics_per_node = 1, .nic_gbps = 400});
  const auto seat = [&](std::int32_t node, std::int32_t index) {
    return FabricTransport::Seat{.gpus = {t.gpu(node, index)}, .bytes_per_block = 1'000'000};
  };
  // Instance 0 on one node sends KV to 1 on the other; 2 stands beside 1 and loads from 3, beside 0.
  FabricTransport transport(t, {seat(0, 0), seat(1, 0), seat(1, 1), seat(0, 1)}, {.kv_heads = 8},
                            SimDuration(0));
  std::vector<WeightLoads::Plan> plans(4);
  for (std::size_t i = 0; i < 4; ++i) {
    plans[i].bytes_per_gpu = 2'000'000'000;
    plans[i].gpus = {t.gpu(i == 0 || i == 3 ? 0 : 1, i < 2 ? 0 : 1)};
  }
  transport.load_from(plans);
  transport.load(InstanceId(2), InstanceId(3), SimTime(0));
  transport.begin({.request = RequestId(1), .from = InstanceId(0), .to = InstanceId(1), .blocks = 500},
                  SimTime(0));
  SimTime pulled = SimTime::never(), loaded = SimTime::never();
  std::vector<KvPullDone> done;
  std::vector<InstanceId> ready;
  for (;;) {
    const SimTime now = earlier(transport.next_event(), transport.next_load());
    if (now.is_never()) break;
    transport.collect(now, done);
    transport.take_loaded(now, ready);
    if (!done.empty() && pulled.is_never()) pulled = done[0].at;
    if (!ready.empty() && loaded.is_never()) loaded = now;
  }
  // 500 MB at half of 50 GB/s; of the load's 2 GB as many by then, and the rest alone.
  CHECK((pulled - SimTime(0)).seconds() == Approx(0.020).epsilon(1e-3));
  CHECK((loaded - SimTime(0)).seconds() == Approx(0.050).epsilon(1e-3));
}

TEST_CASE("where weights cannot come from is said at its key [loads]") {
  const auto error = [](const Result<Scenario>& s) { return s.ok() ? "" : s.errors().front().message; };
  const std::string one = "[" + failing(0) + "]";
  CHECK(error(load("{from: storage}", one, 2, "")).find("deployment.topology") != std::string::npos);
  CHECK(error(load("{from: storage}", one, 2, "{preset: hopper-8}")).find("no leaf or spine") !=
        std::string::npos);
  CHECK(error(load("{from: moon}", one)).find("storage") != std::string::npos);
}
