// Shares against water filling over everything, on random topologies and flow sets; bytes and times to the
// last one.
#include <algorithm>
#include <map>
#include <set>

#include "base/random.h"
#include "catch.h"
#include "sim/fabric/flows.h"
#include "sim/fabric/presets.h"

using namespace orrery;
using namespace orrery::fabric;

namespace {

constexpr std::int64_t giga = 1'000'000'000;

// a - b - c in a row, 10 and 4 GB/s, 1 µs each.
Topology row() {
  Topology t;
  const DeviceId a = t.add_device({"a", DeviceKind::gpu, 0, 0}),
                 s = t.add_device({"s", DeviceKind::nvswitch, 0, 0});
  const DeviceId b = t.add_device({"b", DeviceKind::gpu, 0, 1}),
                 c = t.add_device({"c", DeviceKind::gpu, 0, 2});
  t.add_link(a, s, LinkClass::nvlink, 10 * giga, 10 * giga, microseconds(1));
  t.add_link(s, b, LinkClass::nvlink, 4 * giga, 4 * giga, microseconds(1));
  t.add_link(s, c, LinkClass::nvlink, 10 * giga, 10 * giga, microseconds(1));
  return t;
}

Topology random_topology(RandomStream& random, std::int64_t scale = 1) {
  Topology t;
  const std::uint64_t switches = 2 + random.below(4), gpus = 3 + random.below(8);
  for (std::uint64_t i = 0; i < switches; ++i)
    t.add_device({"s" + std::to_string(i), DeviceKind::nvswitch, 0, static_cast<std::int32_t>(i)});
  // Tiny at scale 1, so that remainders matter and some flows starve.
  const auto rate = [&] { return scale * static_cast<std::int64_t>(5 + random.below(40)); };
  const auto join = [&](std::uint64_t a, std::uint64_t b) {
    t.add_link(DeviceId(static_cast<std::uint32_t>(a)), DeviceId(static_cast<std::uint32_t>(b)),
               LinkClass::nvlink, rate(), rate(), SimDuration(static_cast<std::int64_t>(random.below(1000))));
  };
  for (std::uint64_t i = 1; i < switches; ++i) join(i, random.below(i));
  for (std::uint64_t i = 0; i < switches; ++i) {
    const std::uint64_t other = random.below(switches);
    if (other != i) join(i, other);
  }
  for (std::uint64_t i = 0; i < gpus; ++i) {
    t.add_device({"g" + std::to_string(i), DeviceKind::gpu, 0, static_cast<std::int32_t>(i)});
    join(switches + i, random.below(switches));
  }
  return t;
}

using Paths = std::map<FlowId, std::vector<LinkId>>;

// The definition of flows.h, over all flows at once, without heaps, regions or history.
std::map<FlowId, std::int64_t> water_fill(std::vector<std::int64_t> left, Paths open) {
  std::map<FlowId, std::int64_t> rates;
  while (!open.empty()) {
    std::vector<std::int64_t> count(left.size());
    for (const auto& [flow, path] : open)
      for (const LinkId link : path) ++count[link.value()];
    std::int64_t level = INT64_MAX;
    for (std::size_t l = 0; l < left.size(); ++l)
      if (count[l] > 0) level = std::min(level, left[l] / count[l]);
    std::set<FlowId> full;
    for (const auto& [flow, path] : open)
      for (const LinkId link : path)
        if (left[link.value()] / count[link.value()] == level) full.insert(flow);
    for (const FlowId flow : full) {
      rates[flow] = level;
      for (const LinkId link : open[flow]) left[link.value()] -= level;
      open.erase(flow);
    }
  }
  return rates;
}

struct World {
  explicit World(std::uint64_t seed, std::int64_t scale = 1)
      : random(seed, RandomPurpose::property_test), topology(random_topology(random, scale)),
        flows(topology) {
    for (std::size_t i = 0; i < topology.link_count(); ++i)
      capacity.push_back(topology.link(LinkId(static_cast<std::uint32_t>(i))).bytes_per_second);
  }
  DeviceId gpu() { return topology.gpus()[random.below(topology.gpus().size())]; }
  void forget_drained() {
    for (auto it = paths.begin(); it != paths.end();)
      it = flows.active(it->first) ? std::next(it) : paths.erase(it);
  }
  void add() {
    FlowSpec spec{gpu(), gpu(), static_cast<std::int64_t>(1 + random.below(300)), random.bits()};
    if (spec.from == spec.to) return;
    const Result<FlowId> flow = flows.add(spec, now);
    if (!flow.ok()) return;
    added += spec.bytes;
    paths[*flow] = flows.links_of(*flow);
  }
  void change() {
    const std::uint64_t what = random.below(10);
    if (what < 6) add();
    if (what == 6 && !paths.empty()) {
      auto it = paths.begin();
      std::advance(it, static_cast<std::ptrdiff_t>(random.below(paths.size())));
      removed_unsent += flows.bytes_left(it->first, now);
      const std::int64_t sent = flows.remove(it->first, now);
      REQUIRE(sent >= 0);
      removed_sent += sent;
      paths.erase(it);
    }
    if (what == 7) degrade();
    if (what == 8 && random.below(6) == 0) fail();
    if (what == 9) {
      now += SimDuration(static_cast<std::int64_t>(random.below(4 * static_cast<std::uint64_t>(giga))));
      for (const Arrival& arrival : flows.advance(now)) REQUIRE(arrival.at <= now);
      forget_drained();
    }
  }
  void degrade() {
    const LinkId link(static_cast<std::uint32_t>(random.below(topology.link_count())));
    const double factor = 0.25 + 0.75 * random.uniform();
    flows.degrade(link, factor, now);
    const double rate = static_cast<double>(topology.link(link).bytes_per_second) * factor;
    capacity[link.value()] = std::max<std::int64_t>(1, round_half_even(rate));
  }
  void fail() {
    const LinkId link(static_cast<std::uint32_t>(random.below(topology.link_count())));
    const FailedLink failed = flows.fail(link, now);
    for (const CutFlow& cut : failed.cut) cut_left += cut.bytes_left;
    for (const CutFlow& cut : failed.cut) cuts.push_back(cut.flow);
    for (const CutFlow& cut : failed.cut) paths.erase(cut.flow);
    for (const FlowId flow : failed.rerouted) {
      paths[flow] = flows.links_of(flow);
      for (const LinkId on : paths[flow]) REQUIRE((on != link && on != Topology::reverse(link)));
    }
  }

  RandomStream random;
  Topology topology;
  Flows flows;
  std::vector<std::int64_t> capacity;
  Paths paths;
  SimTime now;
  std::int64_t added = 0, removed_sent = 0, removed_unsent = 0, cut_left = 0;
  std::vector<FlowId> cuts;
};

// Bertsekas and Gallager: an allocation is max-min fair exactly when every flow has a bottleneck, a full link
// on which nobody is faster. Rounding down leaves less than a byte per second a flow.
void require_bottlenecks(World& world) {
  for (const auto& [flow, path] : world.paths) {
    bool bottleneck = false;
    for (const LinkId link : path) {
      std::int64_t sum = 0, most = 0, count = 0;
      for (const auto& [other, links] : world.paths) {
        if (std::find(links.begin(), links.end(), link) == links.end()) continue;
        sum += world.flows.rate(other);
        most = std::max(most, world.flows.rate(other));
        ++count;
      }
      REQUIRE(sum <= world.capacity[link.value()]);
      REQUIRE(sum == world.flows.link_rate(link));
      bottleneck |= sum > world.capacity[link.value()] - count && most == world.flows.rate(flow);
    }
    REQUIRE(bottleneck);
  }
}

}  // namespace

TEST_CASE("shares equal water filling over all flows after any sequence of changes") {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    World world(seed);
    for (int step = 0; step < 120; ++step) {
      world.change();
      if (step % 3 != 0) continue;  // several changes at one instant, too
      const auto expected = water_fill(world.capacity, world.paths);
      for (const auto& [flow, rate] : expected) {
        INFO("seed " << seed << " step " << step << " flow " << flow.value());
        REQUIRE(world.flows.rate(flow) == rate);
      }
      if (step % 30 == 0) require_bottlenecks(world);
    }
  }
}

TEST_CASE("every byte arrives once, or is named as left behind") {
  for (std::uint64_t seed = 1000; seed < 1100; ++seed) {
    World world(seed, 1000);
    for (int step = 0; step < 200; ++step) world.change();
    std::int64_t cut_bytes = 0;  // whole flows that were cut, sent and unsent
    while (!world.flows.next_end().is_never()) {
      world.now = world.flows.next_end();
      world.flows.advance(world.now);
    }
    REQUIRE(world.flows.active_count() == 0);
    cut_bytes = world.added - world.flows.delivered_bytes() - world.removed_sent - world.removed_unsent;
    if (world.cuts.empty()) REQUIRE(cut_bytes == 0);
    REQUIRE(cut_bytes >= world.cut_left);
  }
}

TEST_CASE("what crossed a link is the sum of its flows, to the byte") {
  const Topology t = row();
  Flows flows(t);
  RandomStream random(7, RandomPurpose::property_test);
  std::int64_t to_b = 0, to_c = 0;
  SimTime now;
  for (std::uint64_t i = 0; i < 500; ++i) {
    const auto bytes = static_cast<std::int64_t>(1 + random.below(100000));
    const bool b = random.below(2) == 0;
    (b ? to_b : to_c) += bytes;
    REQUIRE(flows.add({t.find("a"), t.find(b ? "b" : "c"), bytes, i}, now).ok());
    now += SimDuration(static_cast<std::int64_t>(random.below(9000)));
  }
  while (!flows.next_end().is_never()) flows.advance(flows.next_end());
  CHECK(flows.link_bytes(LinkId(0)) == to_b + to_c);
  CHECK(flows.link_bytes(LinkId(2)) == to_b);
  CHECK(flows.link_bytes(LinkId(4)) == to_c);
  CHECK(flows.link_bytes(LinkId(1)) == 0);
  CHECK(flows.delivered_bytes() == to_b + to_c);
}

TEST_CASE("a flow alone gets the least bandwidth of its route, and its latency once") {
  const Topology t = row();
  Flows flows(t);
  const FlowId flow = flows.add({t.find("a"), t.find("b"), 4'000'001, 1}, SimTime(0)).value();
  CHECK(flows.rate(flow) == 4 * giga);
  CHECK(flows.next_end() == SimTime(1'000'001));  // 4,000,001 bytes at 4 bytes a ns: rounded up
  CHECK(flows.advance(SimTime(1'000'001)).empty());
  CHECK_FALSE(flows.active(flow));
  const auto arrived = flows.advance(SimTime(2'000'000'000));
  REQUIRE(arrived.size() == 1);
  CHECK(arrived[0].at == SimTime(1'000'001 + 2000));
}

TEST_CASE("two flows halve a link; the end moves when one comes and when one goes") {
  const Topology t = row();
  Flows flows(t);
  const FlowId first = flows.add({t.find("a"), t.find("b"), 8'000'000, 1}, SimTime(0)).value();
  CHECK(flows.next_end() == SimTime(2'000'000));
  const FlowId second = flows.add({t.find("c"), t.find("b"), 8'000'000, 2}, SimTime(1'000'000)).value();
  CHECK(flows.rate(first) == 2 * giga);
  CHECK(flows.rate(second) == 2 * giga);
  CHECK(flows.next_end() == SimTime(3'000'000));
  CHECK(flows.remove(second, SimTime(2'000'000)) == 2'000'000);
  CHECK(flows.rate(first) == 4 * giga);
  CHECK(flows.next_end() == SimTime(2'500'000));
}

TEST_CASE("what one flow cannot use, others get") {
  const Topology t = row();
  Flows flows(t);
  const FlowId slow = flows.add({t.find("a"), t.find("b"), giga, 1}, SimTime(0)).value();
  const FlowId fast = flows.add({t.find("a"), t.find("c"), giga, 2}, SimTime(0)).value();
  CHECK(flows.rate(slow) == 4 * giga);
  CHECK(flows.rate(fast) == 6 * giga);
  flows.degrade(LinkId(2), 0.5, SimTime(1000));
  CHECK(flows.rate(slow) == 2 * giga);
  CHECK(flows.rate(fast) == 8 * giga);
  flows.degrade(LinkId(2), 1, SimTime(1000));
  CHECK(flows.rate(fast) == 6 * giga);
}

TEST_CASE("a demand takes every link of its set at one rate") {
  const Topology t = row();
  Flows flows(t);
  const FlowId demand =
      flows.add({{}, {}, 4'000'000, 1, {LinkId(0), LinkId(2), LinkId(4)}}, SimTime(0)).value();
  CHECK(flows.rate(demand) == 4 * giga);
  CHECK(flows.link_rate(LinkId(0)) == 4 * giga);
  CHECK(flows.link_rate(LinkId(4)) == 4 * giga);
  const auto arrived = flows.advance(SimTime(giga));
  REQUIRE(arrived.size() == 1);
  CHECK(arrived[0].at == SimTime(1'001'000));
}

TEST_CASE("the order of changes at one instant does not matter") {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    RandomStream random(seed, RandomPurpose::property_test, 5);
    const Topology t = random_topology(random);
    std::vector<std::pair<FlowSpec, SimTime>> adds;
    for (std::uint64_t i = 0; i < 60; ++i) {
      const DeviceId a = t.gpus()[random.below(t.gpus().size())], b = t.gpus()[random.below(t.gpus().size())];
      const SimTime at(static_cast<std::int64_t>(random.below(4)) * giga);
      if (a != b) adds.push_back({{a, b, static_cast<std::int64_t>(1 + random.below(50)), i}, at});
    }
    const auto play = [&](bool forward, std::int64_t tick) {
      Flows flows(t);
      auto order = adds;
      if (!forward) std::reverse(order.begin(), order.end());
      std::stable_sort(order.begin(), order.end(), [](auto& a, auto& b) { return a.second < b.second; });
      std::vector<std::pair<std::uint64_t, SimTime>> out;
      const auto keep = [&](const std::vector<Arrival>& some) {
        for (const Arrival& a : some) out.emplace_back(a.key, a.at);
      };
      for (const auto& [spec, at] : order) {
        keep(flows.advance(at));
        REQUIRE(flows.add(spec, at).ok());
      }
      SimTime now(3 * giga);
      while (!flows.next_end().is_never()) {  // looking more often changes nothing
        now = tick == 0 ? flows.next_end() : earlier(flows.next_end(), now + SimDuration(tick));
        keep(flows.advance(now));
      }
      return out;
    };
    const auto first = play(true, 0);
    CHECK(first == play(false, 0));
    CHECK(first == play(true, 123'456'789));
  }
}

TEST_CASE("a cut cable reroutes what has another way and reports what has none") {
  PresetOptions o;
  o.preset = "hopper-8", o.nodes = 2, o.nics_per_node = 8, o.nic_gbps = 400;
  const Topology t = build_preset(o);
  Flows flows(t);
  const FlowId flow = flows.add({t.gpu(0, 0), t.gpu(1, 0), 50'000'000, 9}, SimTime(0)).value();
  CHECK(flows.rate(flow) == 50 * giga);
  LinkId port = LinkId::none();
  for (const LinkId link : flows.links_of(flow))
    if (t.device(t.link(link).to).kind == DeviceKind::leaf) port = link;
  const FailedLink failed = flows.fail(port, SimTime(500'000));
  REQUIRE(failed.rerouted == std::vector<FlowId>{flow});
  CHECK(flows.rate(flow) == 50 * giga);  // the neighbouring NIC
  CHECK(flows.bytes_left(flow, SimTime(500'000)) == 25'000'000);
  CHECK(flows.link_bytes(port) == 25'000'000);
  const FlowId local = flows.add({t.gpu(0, 0), t.gpu(0, 1), giga, 3}, SimTime(600'000)).value();
  const LinkId direct = flows.links_of(local)[0];
  const FlowId demand = flows.add({{}, {}, giga, 4, {direct}}, SimTime(600'000)).value();
  const FailedLink nvlink = flows.fail(direct, SimTime(600'000));
  REQUIRE(nvlink.rerouted == std::vector<FlowId>{local});  // over PCIe
  REQUIRE(nvlink.cut.size() == 1);
  CHECK(nvlink.cut[0].flow == demand);
  CHECK(nvlink.cut[0].bytes_left == giga);
  CHECK(nvlink.cut[0].key == 4);
  CHECK(flows.rate(local) <= 63 * giga);
  // Mended, the way is there again for whoever comes; flows under way stay where they are.
  flows.restore(direct, SimTime(700'000));
  const FlowId later = flows.add({t.gpu(0, 0), t.gpu(0, 1), giga, 5}, SimTime(700'000)).value();
  CHECK(flows.links_of(later)[0] == direct);
  CHECK(flows.rate(later) == 450 * giga);
  CHECK(flows.rate(local) <= 63 * giga);
}

TEST_CASE("a change far away touches nothing here") {
  PresetOptions o;
  o.preset = "hopper-8", o.nodes = 4, o.nics_per_node = 8, o.nic_gbps = 400;
  const Topology t = build_preset(o);
  Flows flows(t);
  std::uint64_t key = 0;
  for (std::int32_t n = 0; n < 4; ++n)
    for (std::int32_t i = 0; i < 8; ++i)
      for (std::int32_t j = 0; j < 8; ++j)
        if (i != j) REQUIRE(flows.add({t.gpu(n, i), t.gpu(n, j), giga, ++key}, SimTime(0)).ok());
  flows.next_end();
  const std::uint64_t before = flows.touched();
  REQUIRE(flows.add({t.gpu(2, 0), t.gpu(2, 1), giga, ++key}, SimTime(10)).ok());
  flows.next_end();
  CHECK(flows.touched() - before <= 2 * 57);  // node 2's flows, at most twice
}
