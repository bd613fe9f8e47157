// The only file that ends the process.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "base/text.h"
#include "cli/command.h"
#include "cli/command_table.h"
#include "cli/console.h"
#include "cli/version.h"

namespace {

std::string version_text() {
  std::string text = "orrery " + orrery::version() + "\n";
#if defined(__clang__)  // its __VERSION__ begins with its name, GCC's is a bare number
  text += "compiler: " __VERSION__ "\n";
#else
  text += "compiler: GCC " __VERSION__ "\n";
#endif
  text += "GPU back ends: none in this version (kernels come with calibration)";
  return text;
}

std::string command_line(int argc, char** argv) {
  std::string line = "orrery";
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const bool plain =
        !word.empty() && word.find_first_of(" \t\n\"'\\$`*?[]{}()<>|&;#~") == std::string::npos;
    line += ' ';
    if (plain) {
      line += word;
      continue;
    }
    line += '\'';
    for (const char c : word) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

CLI::App* find_command(CLI::App& app, const std::string& name) {
  for (CLI::App* command : app.get_subcommands({})) {
    if (command->get_name() == name) return command;
  }
  return nullptr;
}

// What is wrong with the first word when it is no command; the parser would only list every word as
// unexpected.
std::string unknown_command(CLI::App& app, int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-' || find_command(app, argv[1]) != nullptr) return "";
  std::vector<std::string> names;
  names.reserve(orrery::command_table.size());
  for (const orrery::CommandEntry& entry : orrery::command_table) names.emplace_back(entry.name);
  return "there is no command " + orrery::quote(argv[1]) + orrery::did_you_mean(argv[1], names) +
         "; known: " + orrery::join(names, ", ");
}

// `orrery help` and `orrery help COMMAND`.
void install_help(CLI::App& app, orrery::CommandContext& context) {
  using namespace orrery;
  auto about = std::make_shared<std::string>();
  CLI::App* help = app.add_subcommand("help", "what the commands do\nexample: orrery help simulate");
  help->add_option("COMMAND", *about, "the command to explain");
  help->callback([&app, &context, about] {
    context.action = [&app, about] {
      const CLI::App* command = about->empty() ? &app : find_command(app, *about);
      if (command == nullptr)
        return report_errors({make_error(ErrorKind::usage, "there is no command " + quote(*about))});
      std::printf("%s", command->help().c_str());
      return static_cast<int>(ExitCode::done);
    };
  });
}

// Commands whose names are fixed and whose work is not there yet: refused by name, not as a typing mistake.
void refuse_later_commands(CLI::App& app, orrery::CommandContext& context) {
  using namespace orrery;
  for (const LaterCommand& later : later_commands) {
    if (find_command(app, later.name) != nullptr) continue;
    CLI::App* command = app.add_subcommand(later.name, std::string(later.does) + ": not in this version");
    command->group("")->prefix_command();
    command->callback([&context, later] {
      context.action = [later] {
        return report_errors(
            {make_error(ErrorKind::usage, "`orrery " + std::string(later.name) + "` (" + later.does +
                                              ") is not in this version; " + "docs/limits.md says what is")});
      };
    });
  }
}

}  // namespace

int main(int argc, char** argv) {
  using namespace orrery;
  CommandContext context;
  context.command_line = command_line(argc, argv);
  CLI::App app{
      "Orrery: a clockwork model of LLM serving. Replays traces against described deployments and predicts\n"
      "TTFT, TPOT, throughput, memory and cost, with error bars.\n"
      "Exit codes: 0 done, 2 usage, 3 invalid input, 4 does not fit, 5 objective not met, 6 device or "
      "endpoint\n"
      "missing, 7 a check failed, 70 internal error, 130 interrupted."};
  app.name("orrery");
  app.set_version_flag("--version", version_text());
  app.require_subcommand(0, 1);
  app.add_flag("--quiet", context.quiet, "no summary, no progress");
  app.add_flag("--json", context.json, "main result as JSON on stdout");
  app.add_option("--color", context.color, "colour of messages on stderr: auto, always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}));
  app.add_option("--log-level", context.log_level, "how much is said on stderr: error, warning, info, debug")
      ->check(CLI::IsMember({"error", "warning", "info", "debug"}));
  app.add_option("--threads", context.threads, "threads between runs (results do not depend on it)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--set", context.overrides, "path.to.key=value: overrides a scenario key (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
  for (const CommandEntry& entry : command_table) entry.install(app, context);
  install_help(app, context);
  // Global options may stand behind the command as well, and behind a command of a command.
  for (CLI::App* command : app.get_subcommands({})) {
    command->fallthrough();
    for (CLI::App* inner : command->get_subcommands({})) inner->fallthrough();
  }
  refuse_later_commands(app, context);  // without it: whatever stands behind them is theirs
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (const std::string unknown = unknown_command(app, argc, argv); !unknown.empty())
      return report_errors({make_error(ErrorKind::usage, unknown)});
    const int code = app.exit(e);
    return code == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  if (!context.action) {
    std::printf("%s", app.help().c_str());
    return static_cast<int>(argc == 1 ? ExitCode::done : ExitCode::usage);
  }
  set_console(context.log_level, context.color);
  const int code = context.action();
  // A full disk behind standard output must not look like success.
  if (std::fflush(stdout) == 0 && std::ferror(stdout) == 0) return code;
  const int lost = report_errors({invalid_input("standard output cannot be written")});
  return code == 0 ? lost : code;
}
