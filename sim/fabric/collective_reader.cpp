#include <limits>

#include "sim/fabric/collectives.h"
#include "sim/fabric/presets.h"

namespace orrery::fabric {

namespace {

CollectiveRange read_range(const Yaml& node, bool last, double after) {
  CollectiveRange range;
  range.algorithm = static_cast<Algorithm>(node.require("algorithm").choice(algorithm_names));
  const Yaml limit = last ? node.optional("up_to_bytes") : node.require("up_to_bytes");
  range.up_to_bytes = limit ? limit.number(0, 1) : std::numeric_limits<double>::infinity();
  if (last && limit) limit.fail("the last range has no end: leave this key out");
  if (!last && limit && range.up_to_bytes <= after)
    limit.fail("ranges stand in order of size: a larger number was expected");
  range.latency = read_figure(node.require("latency"), FigureUnit::seconds);
  const Yaml efficiency = node.require("efficiency");
  range.efficiency = read_figure(efficiency, FigureUnit::ratio);
  if (range.efficiency.value > 1)
    efficiency.fail("a link carries no more than its bandwidth: at most 1 was expected");
  return range;
}

CollectiveSet read_set(const Yaml& node) {
  CollectiveSet set;
  set.library = node.require("library").text();
  set.op = static_cast<CollectiveOp>(node.require("operator").choice(collective_op_names));
  set.ranks = static_cast<std::int32_t>(node.require("ranks").integer(2, 2, 1024));
  const Yaml ranges = node.require("ranges");
  if (!ranges) return set;
  const std::vector<Yaml> items = ranges.items();
  for (std::size_t i = 0; i < items.size(); ++i)
    set.ranges.push_back(
        read_range(items[i], i + 1 == items.size(), i == 0 ? 0 : set.ranges.back().up_to_bytes));
  if (items.empty()) ranges.fail("at least one range was expected");
  return set;
}

}  // namespace

Result<CollectiveFigures> load_collective_figures(const std::string& path) {
  ORRERY_TRY(document, YamlDocument::load(path));
  CollectiveFigures figures;
  const Yaml root = document.root();
  figures.part = root.require("name").text();
  std::vector<std::string> names;
  for (const TopologyPreset& preset : topology_presets) names.emplace_back(preset.name);
  figures.topology = names[root.require("topology").choice(names)];
  if (const Yaml sets = root.require("sets"))
    for (const Yaml& set : sets.items()) figures.sets.push_back(read_set(set));
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return figures;
}

}  // namespace orrery::fabric
