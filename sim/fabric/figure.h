// A figure of the fabric: value, kind, source. The cost model has its own (costmodel/figure.h), which this
// layer cannot see: it links `base` only.
#pragma once

#include <string>

#include "base/yaml_reader.h"

namespace orrery::fabric {

enum class FigureKind { measured, published, datasheet, derived, assumed };
const char* to_string(FigureKind kind);

struct Figure {
  double value = 0;  // in the base unit: bytes/s, seconds, 1
  FigureKind kind = FigureKind::assumed;
  std::string source;  // citation, formula or reason; empty: nobody gave this figure
  bool present() const { return !source.empty(); }
};

enum class FigureUnit { bytes_per_second, seconds, ratio };

// `{value: 450, unit: GB/s, kind: datasheet, source: "…"}`, all four required. Bandwidths and ratios must be
// positive, times may be zero. After an error the figure is absent.
Figure read_figure(const Yaml& node, FigureUnit unit);

}  // namespace orrery::fabric
