// Reads figures of profile files: `{value: 4.8, unit: TB/s, kind: datasheet, source: "…"}`. All four keys are
// required; the unit must be one of the figure's dimension. Bits (b) and bytes (B), decimal (k, M, G, T) and
// binary (Ki, Mi, Gi, Ti) prefixes are different units.
#pragma once

#include <string>
#include <vector>

#include "base/result.h"
#include "base/yaml_reader.h"
#include "costmodel/figure.h"

namespace orrery {

enum class Dimension {
  bytes,
  bytes_per_second,
  operations_per_second,
  seconds,
  hertz,
  watts,
  usd_per_hour,
  ratio,
  count
};

namespace detail {
template <class Q>
struct DimensionOf;
template <>
struct DimensionOf<Bytes> {
  static constexpr Dimension value = Dimension::bytes;
};
template <>
struct DimensionOf<BytesPerSecond> {
  static constexpr Dimension value = Dimension::bytes_per_second;
};
template <>
struct DimensionOf<FlopsPerSecond> {
  static constexpr Dimension value = Dimension::operations_per_second;
};
template <>
struct DimensionOf<Seconds> {
  static constexpr Dimension value = Dimension::seconds;
};
template <>
struct DimensionOf<Hertz> {
  static constexpr Dimension value = Dimension::hertz;
};
template <>
struct DimensionOf<Watts> {
  static constexpr Dimension value = Dimension::watts;
};
template <>
struct DimensionOf<UsdPerHour> {
  static constexpr Dimension value = Dimension::usd_per_hour;
};
}  // namespace detail

// Value in the base unit (bytes, bytes/s, operations/s, s, Hz, W, USD/h, 1); must be positive, or ≥ 0 when
// `zero_allowed`. After an error the figure is absent.
Figure<double> read_number_figure(const Yaml& node, Dimension dimension, bool zero_allowed = false);

template <class Q>
Figure<Q> read_figure(const Yaml& node, bool zero_allowed = false) {
  Figure<double> raw = read_number_figure(node, detail::DimensionOf<Q>::value, zero_allowed);
  return {Q(raw.value), raw.kind, std::move(raw.source)};
}

// Marks everything below `node` as known, after an error that makes the rest of it meaningless.
void accept_all(const Yaml& node);

// The file must call itself as it is called: `name: h200` in h200.yaml.
void check_profile_name(const Yaml& name, const std::string& expected);

}  // namespace orrery
