#include "costmodel/profile_reader.h"

#include <array>

#include "base/text.h"

namespace orrery {

namespace {

struct UnitName {
  const char* name;
  Dimension dimension;
  double factor;  // to the base unit
};

constexpr double Ki = 1024, Mi = Ki * 1024, Gi = Mi * 1024, Ti = Gi * 1024;

constexpr std::array units{
    UnitName{"B", Dimension::bytes, 1},
    UnitName{"kB", Dimension::bytes, 1e3},
    UnitName{"MB", Dimension::bytes, 1e6},
    UnitName{"GB", Dimension::bytes, 1e9},
    UnitName{"TB", Dimension::bytes, 1e12},
    UnitName{"KiB", Dimension::bytes, Ki},
    UnitName{"MiB", Dimension::bytes, Mi},
    UnitName{"GiB", Dimension::bytes, Gi},
    UnitName{"TiB", Dimension::bytes, Ti},
    UnitName{"MB/s", Dimension::bytes_per_second, 1e6},
    UnitName{"GB/s", Dimension::bytes_per_second, 1e9},
    UnitName{"TB/s", Dimension::bytes_per_second, 1e12},
    UnitName{"GiB/s", Dimension::bytes_per_second, Gi},
    UnitName{"TiB/s", Dimension::bytes_per_second, Ti},
    UnitName{"Mb/s", Dimension::bytes_per_second, 1e6 / 8},
    UnitName{"Gb/s", Dimension::bytes_per_second, 1e9 / 8},
    UnitName{"Tb/s", Dimension::bytes_per_second, 1e12 / 8},
    UnitName{"GFLOP/s", Dimension::operations_per_second, 1e9},
    UnitName{"TFLOP/s", Dimension::operations_per_second, 1e12},
    UnitName{"PFLOP/s", Dimension::operations_per_second, 1e15},
    UnitName{"TOP/s", Dimension::operations_per_second, 1e12},
    UnitName{"s", Dimension::seconds, 1},
    UnitName{"ms", Dimension::seconds, 1e-3},
    UnitName{"us", Dimension::seconds, 1e-6},
    UnitName{"ns", Dimension::seconds, 1e-9},
    UnitName{"Hz", Dimension::hertz, 1},
    UnitName{"MHz", Dimension::hertz, 1e6},
    UnitName{"GHz", Dimension::hertz, 1e9},
    UnitName{"W", Dimension::watts, 1},
    UnitName{"kW", Dimension::watts, 1e3},
    UnitName{"USD/h", Dimension::usd_per_hour, 1},
    UnitName{"ratio", Dimension::ratio, 1},
    UnitName{"count", Dimension::count, 1},
};

const char* dimension_text(Dimension dimension) {
  switch (dimension) {
    case Dimension::bytes: return "an amount of memory";
    case Dimension::bytes_per_second: return "a bandwidth";
    case Dimension::operations_per_second: return "a rate of operations";
    case Dimension::seconds: return "a time";
    case Dimension::hertz: return "a frequency";
    case Dimension::watts: return "a power";
    case Dimension::usd_per_hour: return "a price";
    case Dimension::ratio: return "a ratio";
    case Dimension::count: break;
  }
  return "a count";
}

double read_factor(const Yaml& node, Dimension dimension) {
  const std::string given = node.text();
  std::vector<std::string> names;
  const UnitName* other = nullptr;
  for (const UnitName& unit : units) {
    if (unit.dimension == dimension) names.emplace_back(unit.name);
    if (given != unit.name) continue;
    if (unit.dimension == dimension) return unit.factor;
    other = &unit;
  }
  std::string message = other == nullptr
                            ? "unknown unit " + quote(given) + did_you_mean(given, names)
                            : "unit " + quote(given) + " is of " + dimension_text(other->dimension);
  node.fail(message + "; " + dimension_text(dimension) + " was expected, in " + join(names, ", "));
  return 1;
}

constexpr std::array kinds{FigureKind::measured, FigureKind::published, FigureKind::datasheet,
                           FigureKind::derived, FigureKind::assumed};

}  // namespace

Figure<double> read_number_figure(const Yaml& node, Dimension dimension, bool zero_allowed) {
  Figure<double> figure;
  if (!node.present()) return figure;
  if (!node.is_map()) {
    node.fail("a figure was expected: {value, unit, kind, source}");
    return figure;
  }
  const Yaml value = node.require("value"), unit = node.require("unit"), kind = node.require("kind"),
             source = node.require("source");
  const double number = value.number(1, 0);
  if (number == 0 && !zero_allowed)
    value.fail("must be above 0; leave the figure out when the part has none");
  const double factor = unit.present() ? read_factor(unit, dimension) : 1;
  if (kind.present()) {
    std::vector<std::string> names;
    for (const FigureKind k : kinds) names.emplace_back(to_string(k));
    figure.kind = kinds[kind.choice(names)];
  }
  std::string text = source.text();
  const bool blank = text.find_first_not_of(" \t\n") == std::string::npos;
  if (source.present() && blank)
    source.fail("a figure without a source is not allowed: cite it, derive it, or say why");
  if (!value.present() || !unit.present() || blank) return figure;
  figure.value = number * factor;
  figure.source = std::move(text);
  return figure;
}

void accept_all(const Yaml& node) {
  if (node.is_map()) {
    for (const auto& [key, child] : node.entries()) accept_all(child);
  } else if (node.is_list()) {
    for (const Yaml& child : node.items()) accept_all(child);
  }
}

void check_profile_name(const Yaml& name, const std::string& expected) {
  if (name.present() && name.text() != expected) {
    name.fail("the file is called " + expected + ".yaml, so the name must be " + quote(expected));
  }
}

}  // namespace orrery
