// `orrery cost --compare NAME…`: named kernel pairs (reports/cases/pairs.yaml), priced on their part.
#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace orrery {

// Whether --compare asks for pairs: what it names are not two files.
bool asks_for_pairs(const std::vector<std::string>& names);

// `pairs`: all of them. Returns the exit code.
int price_pairs(const std::vector<std::string>& names, const CommandContext& context);

}  // namespace orrery
