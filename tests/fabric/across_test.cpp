// Collectives over several nodes: bytes on links and latencies counted by hand.
#include "sim/fabric/across.h"

#include <algorithm>

#include "catch.h"
#include "sim/fabric/flows.h"
#include "sim/fabric/presets.h"

using namespace orrery;
using namespace orrery::fabric;

namespace {

struct Desk {
  explicit Desk(std::int32_t nodes, std::int32_t nics = 8, double gbps = 400)
      : topology(build(nodes, nics, gbps)), routes(topology) {}
  static Topology build(std::int32_t nodes, std::int32_t nics, double gbps) {
    PresetOptions o;
    o.preset = "hopper-8", o.nodes = nodes, o.nics_per_node = nics, o.nic_gbps = gbps;
    return build_preset(o);
  }
  std::vector<DeviceId> gpus(std::size_t from, std::size_t n) const {
    const auto first = topology.gpus().begin() + static_cast<std::ptrdiff_t>(from);
    return {first, first + static_cast<std::ptrdiff_t>(n)};
  }
  std::vector<AcrossWay> ways(const std::vector<std::vector<DeviceId>>& groups, CollectiveOp op) {
    return ways_across(routes, topology, groups, op).value();
  }
  AcrossWay way(std::size_t n, CollectiveOp op, const std::string& name) {
    for (const AcrossWay& w : ways({gpus(0, n)}, op))
      if (w.name == name) return w;
    FAIL("no way " + name);
    return {};
  }
  Topology topology;
  Routes routes;
};

}  // namespace

TEST_CASE("a ring over two nodes of eight: its bytes and steps [across]") {
  Desk desk(2);
  const AcrossWay ring = desk.way(16, CollectiveOp::all_gather, "ring Simple");
  // Each rank sends 15/16 of the buffer in all; of the eight rings through a node one leaves it on each rail.
  CHECK(ring.between == Approx(15 / 16.0 / 8 / 50e9));
  CHECK(ring.inside == Approx(15 / 16.0 * 7 / 8 / 450e9));
  CHECK(ring.network_share == Approx(15 / 16.0 / 8));
  CHECK(ring.latency == Approx((8.4 + 14 * 3.4 + 1 * 14.0) * 1e-6));  // 15 steps, one of them between nodes
  const AcrossWay low = desk.way(16, CollectiveOp::all_gather, "ring LL");
  CHECK(low.latency == Approx((6.6 + 14 * 0.6 * 1.8 + 2.7) * 1e-6));
  CHECK(low.between == Approx(15 / 16.0 / 45e9));  // the protocol's limit, below half of eight NICs
  const AcrossWay reduce = desk.way(16, CollectiveOp::all_reduce, "ring Simple");
  CHECK(reduce.between == Approx(2 * ring.between));
  CHECK(reduce.latency == Approx((8.4 + 28 * 3.4 + 2 * 14.0) * 1e-6));
}

TEST_CASE("a tree over eight nodes waits for log2 of them [across]") {
  Desk desk(8);
  const AcrossWay tree = desk.way(64, CollectiveOp::all_reduce, "tree LL");
  CHECK(tree.latency == Approx((6.8 + 2 * (7 * 0.6 * 1.8 + 3 * 5.0)) * 1e-6));
  // An inner node passes half the buffer up and two halves down, in the other tree half up as a leaf.
  const AcrossWay simple = desk.way(64, CollectiveOp::all_reduce, "tree Simple");
  CHECK(simple.network_share <= 2.0 / 8);
  CHECK(simple.network_share >= 1.0 / 8);
}

TEST_CASE("fewer NICs: what leaves a node shares them [across]") {
  const auto between = [](std::int32_t nics) {
    return Desk(2, nics).way(16, CollectiveOp::all_gather, "ring Simple").between;
  };
  CHECK(between(4) == Approx(2 * between(8)));
  CHECK(between(1) == Approx(8 * between(8)));
}

TEST_CASE("groups that work at the same time share NICs [across]") {
  Desk desk(2, 1);
  const std::vector<DeviceId> all = desk.gpus(0, 16);
  std::vector<std::vector<DeviceId>> pairs;
  for (std::size_t i = 0; i < 8; ++i) pairs.push_back({all[i], all[i + 8]});
  const double one = desk.ways({pairs[0]}, CollectiveOp::all_gather).back().between;
  CHECK(one == Approx(0.5 / 50e9));
  CHECK(desk.ways(pairs, CollectiveOp::all_gather).back().between == Approx(8 * one));
  CHECK(ways_of_send(desk.routes, desk.topology, pairs).value().back().between == Approx(8 / 50e9));
}

TEST_CASE("an all-to-all sends to each rank of other nodes its part [across]") {
  Desk desk(4);
  const AcrossWay direct = desk.way(32, CollectiveOp::all_to_all, "direct Simple");
  // 24 of 32 parts leave the node, over eight NICs for eight GPUs; two NICs reach a GPU by equal ways.
  CHECK(direct.network_share >= 24 / 32.0);
  CHECK(direct.network_share <= 1.5 * 24 / 32.0);
  CHECK(direct.inside == Approx(7 / 32.0 / 450e9));
}

TEST_CASE("ranks unevenly on nodes are refused [across]") {
  Desk desk(2);
  const auto uneven = ways_across(desk.routes, desk.topology, {desk.gpus(0, 12)}, CollectiveOp::all_gather);
  REQUIRE_FALSE(uneven.ok());
  CHECK_THAT(to_string(uneven.errors()), Catch::Matchers::Contains("equally many"));
  Desk apart(2, 0, 0);
  CHECK_FALSE(ways_across(apart.routes, apart.topology, {apart.gpus(0, 16)}, CollectiveOp::all_gather).ok());
}

TEST_CASE("what is kept of a link for others, flows do not have [across]") {
  Desk desk(2);
  Flows flows(desk.topology);
  const FlowId flow =
      flows.add({.from = desk.gpus(0, 1)[0], .to = desk.gpus(8, 1)[0], .bytes = 1 << 30}, SimTime(0)).value();
  CHECK(flows.rate(flow) == 50'000'000'000);
  const LinkId port = between_load(desk.routes, desk.topology, {desk.gpus(0, 16)}).value().links.front();
  const auto& route = flows.links_of(flow);
  const auto network = std::find_if(route.begin(), route.end(), [&](LinkId l) {
    return desk.topology.link(l).link_class == LinkClass::network;
  });
  CHECK(desk.topology.link(port).link_class == LinkClass::network);
  const LinkId link = *network;
  flows.reserve(link, 20'000'000'000, SimTime(0));
  CHECK(flows.rate(flow) == 30'000'000'000);
  flows.degrade(link, 0.5, SimTime(10));
  CHECK(flows.rate(flow) == 5'000'000'000);
  flows.reserve(link, 0, SimTime(20));
  CHECK(flows.rate(flow) == 25'000'000'000);
}
