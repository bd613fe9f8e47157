#include "sim/fabric/figure.h"

#include <array>

#include "base/text.h"

namespace orrery::fabric {

namespace {

struct UnitName {
  const char* name;
  FigureUnit unit;
  double factor;
};

constexpr std::array units{
    UnitName{"MB/s", FigureUnit::bytes_per_second, 1e6},
    UnitName{"GB/s", FigureUnit::bytes_per_second, 1e9},
    UnitName{"TB/s", FigureUnit::bytes_per_second, 1e12},
    UnitName{"Mb/s", FigureUnit::bytes_per_second, 1e6 / 8},
    UnitName{"Gb/s", FigureUnit::bytes_per_second, 1e9 / 8},
    UnitName{"Tb/s", FigureUnit::bytes_per_second, 1e12 / 8},
    UnitName{"s", FigureUnit::seconds, 1},
    UnitName{"ms", FigureUnit::seconds, 1e-3},
    UnitName{"us", FigureUnit::seconds, 1e-6},
    UnitName{"ns", FigureUnit::seconds, 1e-9},
    UnitName{"ratio", FigureUnit::ratio, 1},
};

const std::vector<std::string> kinds{"measured", "published", "datasheet", "derived", "assumed"};

}  // namespace

const char* to_string(FigureKind kind) { return kinds[static_cast<std::size_t>(kind)].c_str(); }

Figure read_figure(const Yaml& node, FigureUnit unit) {
  Figure figure;
  if (!node.present()) return figure;
  if (!node.is_map()) {
    node.fail("a figure was expected: {value, unit, kind, source}");
    return figure;
  }
  const Yaml value = node.require("value"), unit_node = node.require("unit"), source = node.require("source");
  std::vector<std::string> names;
  for (const UnitName& known : units)
    if (known.unit == unit) names.emplace_back(known.name);
  const std::size_t chosen = unit_node.choice(names);
  double factor = 1;
  for (const UnitName& known : units)
    if (known.name == names[chosen]) factor = known.factor;
  figure.value = value.number(0) * factor;
  figure.kind = static_cast<FigureKind>(node.require("kind").choice(kinds));
  if (value.present() && (figure.value < 0 || (figure.value == 0 && unit != FigureUnit::seconds)))
    value.fail(unit == FigureUnit::seconds ? "a time of 0 or more was expected"
                                           : "a number above 0 was expected");
  figure.source = source.text();
  if (source.present() && figure.source.empty()) source.fail("say where the figure comes from");
  return figure;
}

}  // namespace orrery::fabric
