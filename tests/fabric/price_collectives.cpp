// What tools/collectives_report.py and tools/collectives_across.py ask:
//   price_collectives terms PRESET       "operator algorithm ranks" a line in, seconds per byte of the
//                                        busiest link out
//   price_collectives times FIGURES.yaml "library operator ranks bytes" a line in, seconds and algorithm out
//   price_collectives ways NICS          "operator nodes" a line in (nodes of hopper-8 with so many NICs of
//                                        400 Gb/s), ways between nodes out: name;latency;inside;between;…
#include <cstdio>
#include <iostream>
#include <sstream>

#include "sim/fabric/across.h"
#include "sim/fabric/collectives.h"
#include "sim/fabric/presets.h"

using namespace orrery;
using namespace orrery::fabric;

namespace {

std::size_t index_of(const std::vector<std::string>& names, const std::string& name) {
  for (std::size_t i = 0; i < names.size(); ++i)
    if (names[i] == name) return i;
  ORRERY_CHECK(false, "an operator or algorithm that nobody knows");
  return 0;
}

std::vector<DeviceId> first_gpus(const Topology& topology, std::size_t count) {
  ORRERY_CHECK(count >= 2 && count <= topology.gpus().size(), "ranks of one node: 2 to 8");
  return {topology.gpus().begin(), topology.gpus().begin() + static_cast<std::ptrdiff_t>(count)};
}

int fail(const Errors& errors) {
  std::fprintf(stderr, "%s\n", to_string(errors).c_str());
  return 3;
}

int run(bool times, const std::string& argument) {
  PresetOptions options;
  CollectiveFigures figures;
  options.preset = argument;
  if (times) {
    const Result<CollectiveFigures> loaded = load_collective_figures(argument);
    if (!loaded.ok()) return fail(loaded.errors());
    figures = *loaded;
    options.preset = figures.topology;
  }
  const Topology topology = build_preset(options);
  Routes routes(topology);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in(line);
    std::string library, op, algorithm;
    std::size_t ranks = 0;
    double bytes = 0;
    if (times) {
      in >> library >> op >> ranks >> bytes;
      const auto kind = static_cast<CollectiveOp>(index_of(collective_op_names, op));
      const auto time =
          collective_time(figures, routes, topology, first_gpus(topology, ranks), library, kind, bytes);
      if (!time.ok()) return fail(time.errors());
      std::printf("%.9g %s\n", time->seconds,
                  algorithm_names[static_cast<std::size_t>(time->algorithm)].c_str());
    } else {
      in >> op >> algorithm >> ranks;
      const auto kind = static_cast<CollectiveOp>(index_of(collective_op_names, op));
      const auto how = static_cast<Algorithm>(index_of(algorithm_names, algorithm));
      const auto terms = algorithm_terms(routes, topology, first_gpus(topology, ranks), kind, how);
      if (!terms.ok()) return fail(terms.errors());
      std::printf("%.9g\n", terms->wire);
    }
  }
  return 0;
}

int run_ways(const std::string& nics) {
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream in(line);
    std::string op;
    PresetOptions options;
    in >> op >> options.nodes;
    options.preset = "hopper-8", options.nics_per_node = std::stoi(nics), options.nic_gbps = 400;
    const Topology topology = build_preset(options);
    Routes routes(topology);
    const auto kind = static_cast<CollectiveOp>(index_of(collective_op_names, op));
    const auto ways = ways_across(routes, topology, {topology.gpus()}, kind);
    if (!ways.ok()) return fail(ways.errors());
    for (const AcrossWay& way : *ways)
      std::printf("%s;%.9g;%.9g;%.9g;", way.name.c_str(), way.latency, way.inside, way.between);
    std::printf("\n");
  }
  return 0;
}

}  // namespace

int main(int count, char** arguments) {
  const std::string what = count == 3 ? arguments[1] : "";
  if (what == "ways") return run_ways(arguments[2]);
  if (what == "terms" || what == "times") return run(what == "times", arguments[2]);
  std::fprintf(stderr, "use: price_collectives terms PRESET | times FIGURES.yaml | ways NICS\n");
  return 2;
}
