// The alias table that NamedChoice (token_draws.h) draws from, in whole numbers; kernels that draw the same
// have it too (kernels/router_drawn.h).
#pragma once

#include <cstdint>
#include <vector>

#include "costmodel/experts/choice.h"

namespace orrery {

struct DrawnEntry {
  std::uint32_t keep = 0;  // of 2³²: the place's own expert, else the other
  std::uint16_t own = 0, other = 0;
};
std::vector<DrawnEntry> drawn_table(const AliasTable& alias);

}  // namespace orrery
