// `orrery cost`: prices steps and operators, explains where the time goes, and says what fits.
#pragma once

#include "cli/command.h"

namespace orrery {

void register_cost_command(CLI::App& app, CommandContext& context);

}  // namespace orrery
