// Every command of the binary, once: help, dispatch and reference pages come from this table.
#pragma once

#include <array>

#include "cli/command.h"

namespace orrery {

struct CommandEntry {
  const char* name;
  void (*install)(CLI::App& app, CommandContext& context);
};

void register_simulate_command(CLI::App& app, CommandContext& context);
void register_explain_command(CLI::App& app, CommandContext& context);
void register_diff_command(CLI::App& app, CommandContext& context);
void register_cost_command(CLI::App& app, CommandContext& context);
void register_calibrate_command(CLI::App& app, CommandContext& context);
void register_import_command(CLI::App& app, CommandContext& context);
void register_list_command(CLI::App& app, CommandContext& context);
void register_live_command(CLI::App& app, CommandContext& context);
void register_plan_command(CLI::App& app, CommandContext& context);
void register_replay_command(CLI::App& app, CommandContext& context);
void register_trace_command(CLI::App& app, CommandContext& context);
void register_validate_command(CLI::App& app, CommandContext& context);

inline constexpr std::array command_table = {
    CommandEntry{"simulate", register_simulate_command},
    CommandEntry{"explain", register_explain_command},
    CommandEntry{"diff", register_diff_command},
    CommandEntry{"cost", register_cost_command},
    CommandEntry{"calibrate", register_calibrate_command},
    CommandEntry{"import", register_import_command},
    CommandEntry{"list", register_list_command},
    CommandEntry{"live", register_live_command},
    CommandEntry{"plan", register_plan_command},
    CommandEntry{"replay", register_replay_command},
    CommandEntry{"trace", register_trace_command},
    CommandEntry{"validate", register_validate_command},
};

// Names that are taken for commands to come; an entry goes when its command stands above.
struct LaterCommand {
  const char* name;
  const char* does;
};

inline constexpr std::array later_commands = {
    LaterCommand{"calibrate", "times kernels on a GPU"},
    LaterCommand{"doctor", "says what is installed and missing"},
    LaterCommand{"serve", "what-if web page and JSON API"},
    LaterCommand{"import", "brings in configs, traces and results"},
};

}  // namespace orrery
