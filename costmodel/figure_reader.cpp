#include "costmodel/figure_reader.h"

#include <span>
#include <vector>

#include "base/text.h"

namespace orrery {

namespace {

struct UnitName {
  const char* name;
  double factor;  // to the SI unit of the quantity
};

constexpr UnitName rates[] = {{"TFLOP/s", 1e12}, {"GFLOP/s", 1e9}, {"PFLOP/s", 1e15}, {"TOP/s", 1e12}};
constexpr UnitName bandwidths[] = {{"TB/s", 1e12}, {"GB/s", 1e9}, {"MB/s", 1e6}, {"GiB/s", 1073741824.0},
                                   {"Gb/s", 0.125e9}, {"Mb/s", 0.125e6}};
constexpr UnitName sizes[] = {{"B", 1}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"KiB", 1024}, {"MiB", 1048576.0},
                              {"GiB", 1073741824.0}};
constexpr UnitName times[] = {{"s", 1}, {"ms", 1e-3}, {"us", 1e-6}, {"ns", 1e-9}};
constexpr UnitName frequencies[] = {{"Hz", 1}, {"MHz", 1e6}, {"GHz", 1e9}};
constexpr UnitName powers[] = {{"W", 1}, {"kW", 1e3}};

double unit_factor(const Yaml& node, std::span<const UnitName> units, const char* quantity) {
  const Yaml unit = node.require("unit");
  if (!unit.present()) return 1;
  std::vector<std::string> names;
  for (const UnitName& u : units) {
    if (unit.scalar_text() == u.name) return u.factor;
    names.emplace_back(u.name);
  }
  std::string hint = did_you_mean(unit.scalar_text(), names);
  if (unit.scalar_text() == "GBs" || unit.scalar_text() == "GBps") hint = "; use \"GB/s\" (bytes) or \"Gb/s\" (bits)";
  unit.fail("unknown unit " + quote(unit.scalar_text()) + " for a " + quantity + hint + "; known: " + join(names, ", "));
  return 1;
}

template <class Q>
Figure<Q> read_figure(const Yaml& node, std::span<const UnitName> units, const char* quantity) {
  Figure<Q> figure;
  if (!node.present()) return figure;
  const double value = node.require("value").number(1, 0);
  figure.value = Q(value * (units.empty() ? 1.0 : unit_factor(node, units, quantity)));
  figure.kind = read_kind(node);
  figure.source = read_source(node);
  return figure;
}

}  // namespace

FigureKind read_kind(const Yaml& node) {
  const Yaml kind = node.require("kind");
  if (!kind.present()) return FigureKind::assumed;
  return static_cast<FigureKind>(kind.choice({"measured", "published", "datasheet", "derived", "assumed"}));
}

std::string read_source(const Yaml& node) {
  const Yaml source = node.require("source");
  const std::string text = source.text();
  if (source.present() && text.empty()) source.fail("a figure needs a source: who says so, or why it was assumed");
  return text;
}

Figure<FlopsPerSecond> read_rate(const Yaml& n) { return read_figure<FlopsPerSecond>(n, rates, "rate"); }
Figure<BytesPerSecond> read_bandwidth(const Yaml& n) { return read_figure<BytesPerSecond>(n, bandwidths, "bandwidth"); }
Figure<Bytes> read_bytes(const Yaml& n) { return read_figure<Bytes>(n, sizes, "size"); }
Figure<Seconds> read_time(const Yaml& n) { return read_figure<Seconds>(n, times, "time"); }
Figure<Hertz> read_frequency(const Yaml& n) { return read_figure<Hertz>(n, frequencies, "frequency"); }
Figure<Watts> read_power(const Yaml& n) { return read_figure<Watts>(n, powers, "power"); }
Figure<double> read_number(const Yaml& n) { return read_figure<double>(n, {}, "number"); }

}  // namespace orrery
