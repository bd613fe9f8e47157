#include "costmodel/figure.h"

namespace orrery {

const char* to_string(FigureKind kind) {
  switch (kind) {
    case FigureKind::measured: return "measured";
    case FigureKind::published: return "published";
    case FigureKind::datasheet: return "datasheet";
    case FigureKind::derived: return "derived";
    case FigureKind::assumed: return "assumed";
  }
  return "assumed";
}

}  // namespace orrery
