#include "sim/fabric/topology.h"

#include "base/random.h"
#include "catch.h"
#include "sim/fabric/presets.h"
#include "sim/fabric/routes.h"

using namespace orrery;
using namespace orrery::fabric;

namespace {

Topology preset(const std::string& name, std::int32_t nodes = 1, std::int32_t nics = 0, double gbps = 0) {
  PresetOptions o;
  o.preset = name, o.nodes = nodes, o.nics_per_node = nics, o.nic_gbps = gbps;
  return build_preset(o);
}

std::string text(const Topology& t, DeviceId from, const std::vector<LinkId>& route) {
  std::string out = t.device(from).name;
  for (const LinkId link : route) out += " " + t.device(t.link(link).to).name;
  return out;
}

std::string read_errors(const std::string& yaml) {
  const Result<YamlDocument> document = YamlDocument::parse(yaml, "s.yaml");
  REQUIRE(document.ok());
  const Yaml node = document->root().optional("topology");
  const Result<Topology> topology = read_topology(node, "");
  document->finish();
  std::string out = to_string(document->errors());
  if (!topology.ok()) out += to_string(topology.errors());
  return out;
}

}  // namespace

TEST_CASE("presets: GPUs reach each other over what the board has") {
  const Topology hopper = preset("hopper-8");
  Routes routes(hopper);
  CHECK(text(hopper, hopper.gpu(0, 3), routes.find(hopper.gpu(0, 3), hopper.gpu(0, 5), 1)) ==
        "node0.gpu3 node0.nvswitch0 node0.gpu5");
  for (std::uint64_t key = 0; key < 20; ++key)  // as near over their PCIe switch, and narrower
    CHECK(hopper.link(routes.find(hopper.gpu(0, 0), hopper.gpu(0, 1), key)[0]).link_class ==
          LinkClass::nvlink);
  const Topology mi300x = preset("mi300x-8");
  Routes mesh(mi300x);
  for (std::int32_t i = 0; i < 8; ++i) {
    for (std::int32_t j = 0; j < 8; ++j) {
      if (i == j) continue;
      const auto route = mesh.find(mi300x.gpu(0, i), mi300x.gpu(0, j), 1);
      REQUIRE(route.size() == 1);
      CHECK(mi300x.link(route[0]).bytes_per_second == 64'000'000'000);
    }
  }
  const Topology l40s = preset("l40s-8");
  Routes pcie(l40s);
  CHECK(pcie.find(l40s.gpu(0, 0), l40s.gpu(0, 1), 1).size() == 2);  // one switch
  CHECK(pcie.find(l40s.gpu(0, 0), l40s.gpu(0, 2), 1).size() == 4);  // two switches of a CPU
  CHECK(pcie.find(l40s.gpu(0, 0), l40s.gpu(0, 7), 1).size() == 5);  // over the sockets
  for (const TopologyPreset& p : topology_presets)
    for (const LinkSource& source : preset(p.name, 2, 4, 400).sources) {
      CHECK(source.bandwidth.present());
      CHECK(source.latency.present());
    }
}

TEST_CASE("routes between nodes keep to their rail; other ways are spread by the flow's key") {
  const Topology t = preset("hopper-8", 4, 8, 400);
  Routes routes(t);
  for (std::int32_t i = 0; i < 8; ++i) {
    const std::string n = std::to_string(i), sw = std::to_string(i / 2);
    CHECK(text(t, t.gpu(0, i), routes.find(t.gpu(0, i), t.gpu(3, i), 17)) ==
          "node0.gpu" + n + " node0.pcie_switch" + sw + " node0.nic" + n + " leaf" + n + " node3.nic" + n +
              " node3.pcie_switch" + sw + " node3.gpu" + n);
  }
  std::vector<int> spines(8);
  for (std::uint64_t key = 0; key < 800; ++key) {
    const auto route = routes.find(t.gpu(0, 0), t.gpu(1, 7), key);
    REQUIRE(route.size() == 8);
    CHECK(route == routes.find(t.gpu(0, 0), t.gpu(1, 7), key));
    for (const LinkId link : route)
      if (t.device(t.link(link).to).kind == DeviceKind::spine)
        ++spines[static_cast<std::size_t>(t.device(t.link(link).to).index)];
  }
  for (const int count : spines) CHECK(count > 60);  // 100 expected
}

TEST_CASE("a route is as short as the graph allows and passes no GPU") {
  const Topology t = preset("mi300x-8", 3, 4, 200);
  Routes routes(t);
  RandomStream random(3, RandomPurpose::property_test);
  for (int i = 0; i < 300; ++i) {
    const DeviceId a = t.gpus()[random.below(t.gpus().size())], b = t.gpus()[random.below(t.gpus().size())];
    if (a == b) continue;
    const auto route = routes.find(a, b, random.bits());
    REQUIRE_FALSE(route.empty());
    CHECK(t.link(route.front()).from == a);
    CHECK(t.link(route.back()).to == b);
    for (std::size_t k = 0; k + 1 < route.size(); ++k) {
      CHECK(t.link(route[k]).to == t.link(route[k + 1]).from);
      CHECK(t.device(t.link(route[k]).to).kind != DeviceKind::gpu);
    }
    if (t.device(a).node == t.device(b).node) CHECK(route.size() == 1);
  }
}

TEST_CASE("oversubscription takes bandwidth above the leaves only") {
  PresetOptions o;
  o.preset = "hopper-8", o.nodes = 64, o.nics_per_node = 8, o.nic_gbps = 400, o.oversubscription = 2;
  const Topology t = build_preset(o);
  CHECK(t.gpus().size() == 512);
  double down = 0, up = 0;
  for (std::size_t i = 0; i < t.link_count(); ++i) {
    const Link& link = t.link(LinkId(static_cast<std::uint32_t>(i)));
    if (t.device(link.from).name != "leaf0") continue;
    (t.device(link.to).kind == DeviceKind::spine ? up : down) += static_cast<double>(link.bytes_per_second);
  }
  CHECK(down == 32 * 50e9);
  CHECK(up == down / 2);
}

TEST_CASE("deployment.topology: contract and errors, each at its place") {
  CHECK(read_errors("topology: {preset: hopper-8, nodes: 2, nics_per_node: 8, nic_gbps: 400}") == "");
  using Catch::Matchers::Contains;
  CHECK_THAT(read_errors("topology: {preset: hoper-8}"), Contains("s.yaml:1:20") && Contains("hopper-8"));
  CHECK_THAT(read_errors("topology: {preset: hopper-8, nodes: 2}"), Contains("nics_per_node"));
  CHECK_THAT(read_errors("topology: {preset: hopper-8, nodes: 0}"), Contains("topology.nodes"));
  CHECK_THAT(read_errors("topology: {preset: hopper-8, nics: 2}"), Contains("topology.nics"));
  CHECK_THAT(read_errors("topology: {preset: hopper-8, gpus_per_node: 4}"), Contains("topology file"));
  CHECK_THAT(read_errors("topology: nowhere.yaml"), Contains("nowhere.yaml"));
  CHECK_THAT(read_errors("topology: {nodes: 2}"), Contains("preset"));
}

TEST_CASE("a topology file: read, and every mistake of it reported at once") {
  const std::string figure = "{value: 64, unit: GB/s, kind: assumed, source: a guess}";
  const std::string wait = "{value: 1, unit: us, kind: assumed, source: a guess}";
  const std::string head =
      "name: pair\ndevices:\n  - {name: a, kind: gpu, node: 0, index: 0}\n"
      "  - {name: b, kind: gpu, node: 0, index: 1}\nlinks:\n";
  const auto good = parse_topology(
      head + "  - {between: [a, b], class: pcie, bandwidth: " + figure +
          ", bandwidth_back: {value: 8, unit: Gb/s, kind: measured, source: x}, latency: " + wait + "}\n",
      "t.yaml");
  REQUIRE(good.ok());
  CHECK(good->link(LinkId(0)).bytes_per_second == 64'000'000'000);
  CHECK(good->link(LinkId(1)).bytes_per_second == 1'000'000'000);
  CHECK(good->link(LinkId(0)).latency == microseconds(1));
  const auto bad =
      parse_topology(head +
                         "  - {between: [a, c], class: pcie, bandwidth: {value: 64, unit: GB, kind: "
                         "assumed, source: x}, latency: " +
                         wait +
                         "}\n  - {between: [a, b], class: "
                         "wire, bandwidth: {value: 1, unit: GB/s, kind: assumed}, latency: " +
                         wait + "}\nextra: 1\n",
                     "t.yaml");
  REQUIRE_FALSE(bad.ok());
  const std::string errors = to_string(bad.errors());
  using Catch::Matchers::Contains;
  CHECK_THAT(errors, Contains("t.yaml:6") && Contains("\"c\"") && Contains("unit"));
  CHECK_THAT(errors, Contains("t.yaml:7") && Contains("class") && Contains("source"));
  CHECK_THAT(errors, Contains("extra"));
}
