// What algorithms put on links, against the counts that textbooks give (Thakur et al., IJHPCA 2005).
#include "sim/fabric/collectives.h"

#include "base/files.h"
#include "catch.h"
#include "sim/fabric/presets.h"

using namespace orrery;
using namespace orrery::fabric;

namespace {

struct Desk {
  explicit Desk(const std::string& preset, std::int32_t nodes = 1)
      : topology(build(preset, nodes)), routes(topology) {}
  static Topology build(const std::string& preset, std::int32_t nodes) {
    PresetOptions o;
    o.preset = preset, o.nodes = nodes;
    if (nodes > 1) o.nics_per_node = 8, o.nic_gbps = 400;
    return build_preset(o);
  }
  std::vector<DeviceId> ranks(std::size_t n) const {
    return {topology.gpus().begin(), topology.gpus().begin() + static_cast<std::ptrdiff_t>(n)};
  }
  // Bytes on the busiest link per byte of the buffer, in units of that link's bandwidth.
  double load(CollectiveOp op, Algorithm algorithm, std::size_t n, double rate) {
    return algorithm_terms(routes, topology, ranks(n), op, algorithm).value().wire * rate;
  }
  Topology topology;
  Routes routes;
};

}  // namespace

TEST_CASE("bytes on the busiest port of a switch") {
  Desk desk("hopper-8");
  for (const std::size_t n : {2U, 4U, 8U}) {
    const double k = static_cast<double>(n);
    CHECK(desk.load(CollectiveOp::all_reduce, Algorithm::ring, n, 450e9) == Approx(2 * (k - 1) / k));
    CHECK(desk.load(CollectiveOp::all_reduce, Algorithm::one_shot, n, 450e9) == Approx(k - 1));
    CHECK(desk.load(CollectiveOp::all_reduce, Algorithm::two_shot, n, 450e9) == Approx(2 * (k - 1) / k));
    CHECK(desk.load(CollectiveOp::all_gather, Algorithm::ring, n, 450e9) == Approx((k - 1) / k));
    CHECK(desk.load(CollectiveOp::all_to_all, Algorithm::direct, n, 450e9) == Approx((k - 1) / k));
    CHECK(desk.load(CollectiveOp::all_reduce, Algorithm::in_switch, n, 450e9) == Approx(1 + 1 / k));
    CHECK(desk.load(CollectiveOp::all_reduce, Algorithm::tree, n, 450e9) <= 2);
    CHECK(desk.load(CollectiveOp::all_reduce, Algorithm::tree, n, 450e9) >= 2 * (k - 1) / k);
  }
  CHECK(algorithm_terms(desk.routes, desk.topology, desk.ranks(8), CollectiveOp::all_reduce, Algorithm::ring)
            ->steps == 14);
  CHECK(algorithm_terms(desk.routes, desk.topology, desk.ranks(8), CollectiveOp::all_reduce, Algorithm::tree)
            ->steps == 6);
}

TEST_CASE("two MI300X have one link, eight have seven each") {
  Desk desk("mi300x-8");
  CHECK(desk.load(CollectiveOp::all_reduce, Algorithm::ring, 2, 64e9) == Approx(1));
  CHECK(desk.load(CollectiveOp::all_reduce, Algorithm::ring, 8, 64e9) == Approx(0.25));  // 2 · 7/8 over 7
                                                                                         // links
}

TEST_CASE("PCIe boxes share their switch uplinks") {
  Desk desk("l40s-8");
  CHECK(desk.load(CollectiveOp::all_to_all, Algorithm::direct, 2, 31e9) == Approx(0.5));
  CHECK(desk.load(CollectiveOp::all_to_all, Algorithm::direct, 8, 31e9) >= 2 * 6 / 8.0);  // two GPUs on one
                                                                                          // uplink
}

TEST_CASE("hierarchical: the network carries a rank's part only") {
  Desk desk("hopper-8", 4);
  const auto terms = algorithm_terms(desk.routes, desk.topology, desk.ranks(32), CollectiveOp::all_reduce,
                                     Algorithm::hierarchical);
  REQUIRE(terms.ok());
  CHECK(terms->steps == 1 + 6 + 1);
  CHECK(terms->wire == Approx(2 * 7 / 8.0 / 450e9 + 2 * 3 / 4.0 / 8 / 50e9));
  const auto uneven = algorithm_terms(desk.routes, desk.topology, desk.ranks(12), CollectiveOp::all_reduce,
                                      Algorithm::hierarchical);
  CHECK_FALSE(uneven.ok());
  CHECK_FALSE(
      algorithm_terms(desk.routes, desk.topology, desk.ranks(8), CollectiveOp::all_to_all, Algorithm::tree)
          .ok());
}

TEST_CASE(
    "figures in the house load; what has none is refused by name, and so are ranks on several nodes") {
  for (const char* part : {"h100", "h200", "h20-3e", "l40s", "mi300x"}) {
    const auto figures =
        load_collective_figures(data_directory() + "/hardware_profiles/collectives/" + part + ".yaml");
    INFO((figures.ok() ? "" : to_string(figures.errors())));
    REQUIRE(figures.ok());
  }
  const auto h100 =
      load_collective_figures(data_directory() + "/hardware_profiles/collectives/h100.yaml").value();
  Desk desk("hopper-8", 2);
  const auto time = [&](std::size_t n, double bytes) {
    return collective_time(h100, desk.routes, desk.topology, desk.ranks(n), "nccl-2.29.2",
                           CollectiveOp::all_reduce, bytes);
  };
  const auto three = time(3, 1e6);
  REQUIRE_FALSE(three.ok());
  CHECK_THAT(to_string(three.errors()), Catch::Matchers::Contains("3 ranks"));
  REQUIRE(time(8, 1e6).ok());
  REQUIRE_FALSE(time(16, 1e9).ok());  // across_test.cpp
}
