// A figure is a value with its kind and its source. Numbers without parents do not enter a prediction.
#pragma once

#include <string>

#include "base/quantity.h"

namespace orrery {

enum class FigureKind {
  measured,   // by Orrery, on the part itself
  published,  // measured by somebody else, cited
  datasheet,  // vendor datasheet, white paper or product page
  derived,    // computed from other figures; the source says how
  assumed,    // nobody measured it; the source says why this value
};
const char* to_string(FigureKind kind);

template <class Q>
struct Figure {
  Q value{};
  FigureKind kind = FigureKind::assumed;
  std::string source;  // citation, formula or reason; never empty in a loaded profile
  bool present() const { return !source.empty(); }  // false: the part has none, or nobody knows
};

}  // namespace orrery
