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
  CHECK(ring.between == Approx(15 / 16.0 / 8 / 50e9 / 0.887));
  CHECK(ring.inside == Approx(15 / 16.0 * 7 / 8 / 450e9 / 0.887));
  CHECK(ring.network_share == Approx(15 / 16.0 / 8));
  // 15 steps, one of them between nodes; 2: what tables say beside NCCL's model.
  CHECK(ring.latency == Approx(2 * (8.4 + 14 * 3.4 + 1 * 14.0) * 1e-6));
  const AcrossWay low = desk.way(16, CollectiveOp::all_gather, "ring LL");
  CHECK(low.latency == Approx(1.27 * (6.6 + 14 * 1 + 2.7) * 1e-6));  // a step is a network post at least
  CHECK(low.between == Approx(15 / 16.0 / 45e9));  // the protocol's limit, below half of eight NICs
  const AcrossWay reduce = desk.way(16, CollectiveOp::all_reduce, "ring Simple");
  CHECK(reduce.between == Approx(2 * ring.between));
  CHECK(reduce.latency == Approx(2 * 1.4 * (8.4 + 28 * 3.4 + 2 * 14.0) * 1e-6));
}

TEST_CASE("a tree over eight nodes waits for log2 of them [across]") {
  Desk desk(8);
  const AcrossWay tree = desk.way(64, CollectiveOp::all_reduce, "tree LL");
  CHECK(tree.latency == Approx(1.27 * (6.8 + 2 * (7 * 0.6 + 3 * 5.0)) * 1e-6));
  // An inner node passes half the buffer up and two halves down, in the other tree half up as a leaf.
  const AcrossWay simple = desk.way(64, CollectiveOp::all_reduce, "tree Simple");
  CHECK(simple.network_share <= 2.0 / 8);
  CHECK(simple.network_share >= 1.0 / 8);
}

TEST_CASE("NVSwitches that add up are the leaves of a tree of nodes [across]") {
  Desk two(2), four(4);
  const AcrossWay pair = two.way(16, CollectiveOp::all_reduce, "NVLS tree");
  CHECK(pair.multicast);
  CHECK(pair.latency == Approx(2.9 * (25 + 2 * 20.9) * 1e-6));
  // 57.7 GB/s a GPU are less than what eight NICs carry for two nodes, 45.5 on four about as much.
  CHECK(pair.between == Approx(2 * 15 / 16.0 / (8 * 57.7e9)));
  CHECK(pair.inside == Approx((1 + 1 / 8.0) / 450e9));
  const AcrossWay more = four.way(32, CollectiveOp::all_reduce, "NVLS tree");
  CHECK(more.latency == Approx(2.9 * (25 + 4 * 20.9) * 1e-6));
  CHECK(more.between >= 2 * 31 / 32.0 / (8 * 45.5e9));
  // With one NIC a node that is what counts, and one rank a node has no switch to add up in.
  CHECK(Desk(2, 1).way(16, CollectiveOp::all_reduce, "NVLS tree").between == Approx(1 / 50e9));
  const std::vector<DeviceId> all = two.gpus(0, 16);
  for (const AcrossWay& way : two.ways({{all[0], all[8]}}, CollectiveOp::all_reduce))
    CHECK_FALSE(way.multicast);
}

// NVIDIA/nccl-tests issue 309 (two and four nodes of eight H100, InfiniBand, NCCL 2.26.2), of the sizes that
// serving sends; tools/collectives_across.py compares all of them.
TEST_CASE("all-reduces between nodes take what was measured [across]") {
  struct Measured {
    std::size_t nodes;
    double bytes, us;
  };
  for (const Measured& m : {Measured{2, 65536, 33.1},
                            {2, 1048576, 71.5},
                            {2, 8388608, 131.4},
                            {2, 67108864, 466.3},
                            {4, 65536, 47.6},
                            {4, 1048576, 82.2},
                            {4, 8388608, 202.4},
                            {4, 67108864, 574.4}}) {
    CAPTURE(m.nodes, m.bytes);
    Desk desk(static_cast<std::int32_t>(m.nodes));
    double least = 1;
    for (const AcrossWay& w : desk.ways({desk.gpus(0, 8 * m.nodes)}, CollectiveOp::all_reduce))
      least = std::min(least, w.latency + m.bytes * std::max(w.inside / 0.75, w.between));
    CHECK(least * 1e6 == Approx(m.us).epsilon(0.12));
  }
}

TEST_CASE("one rank a node: a ring's hops are a tree's [across]") {
  Desk desk(4);
  const std::vector<DeviceId> all = desk.gpus(0, 32);
  for (const AcrossWay& way : desk.ways({{all[0], all[8], all[16], all[24]}}, CollectiveOp::all_gather)) {
    if (way.name == "ring LL") CHECK(way.latency == Approx(1.27 * (6.6 + 3 * 5.0) * 1e-6));
    if (way.name != "ring LL128") continue;
    CHECK(way.latency == Approx(1.05 * (14.0 + 3 * 8.5) * 1e-6));
    CHECK(way.between == Approx(3 / 4.0 / 50e9 / 0.92 / 0.86));
  }
}

TEST_CASE("compared are only nodes like those of the tables [across]") {
  const auto compared = [](Desk desk, CollectiveOp op, std::size_t each = 8) {
    std::vector<DeviceId> ranks;
    for (std::size_t node : {0, 1})
      for (const DeviceId gpu : desk.gpus(8 * node, each)) ranks.push_back(gpu);
    const std::vector<AcrossWay> ways = desk.ways({ranks}, op);
    const auto is = [](const AcrossWay& way) { return way.compared; };
    CHECK(std::all_of(ways.begin(), ways.end(), is) == std::any_of(ways.begin(), ways.end(), is));
    return ways.front().compared;
  };
  CHECK(compared(Desk(2), CollectiveOp::all_reduce));
  CHECK(compared(Desk(2), CollectiveOp::all_gather));
  CHECK_FALSE(compared(Desk(2), CollectiveOp::reduce_scatter));
  CHECK_FALSE(compared(Desk(2), CollectiveOp::all_to_all));
  CHECK_FALSE(compared(Desk(2), CollectiveOp::all_gather, 1));
  CHECK_FALSE(compared(Desk(2, 4), CollectiveOp::all_gather));
  CHECK_FALSE(compared(Desk(2, 8, 200), CollectiveOp::all_reduce));
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
  CHECK(one == Approx(0.5 / 50e9 / 0.887));
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
