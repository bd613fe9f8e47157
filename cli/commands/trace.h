// `orrery trace stats|convert|generate`: looks at, converts and makes workloads.
#pragma once

#include "cli/command.h"

namespace orrery {

void register_trace_command(CLI::App& app, CommandContext& context);

}  // namespace orrery
