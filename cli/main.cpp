// The only file that ends the process.
#include <CLI/CLI.hpp>
#include <cstdio>

#include "cli/command.h"
#include "cli/command_table.h"
#include "cli/version.h"

namespace {

std::string version_text() {
  std::string text = "orrery " + orrery::version() + "\n";
  text += "compiler: " __VERSION__ "\n";
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
  app.add_option("--color", context.color, "auto, always or never")
      ->check(CLI::IsMember({"auto", "always", "never"}));
  app.add_option("--log-level", context.log_level, "error, warning, info or debug")
      ->check(CLI::IsMember({"error", "warning", "info", "debug"}));
  app.add_option("--threads", context.threads, "threads between runs (results do not depend on it)")
      ->check(CLI::Range(1, 1024));
  app.add_option("--set", context.overrides, "path.to.key=value: overrides a scenario key (repeatable)")
      ->take_all()
      ->allow_extra_args(false);
  for (const CommandEntry& entry : command_table) entry.install(app, context);
  app.add_subcommand("help", "what the commands do")->callback([&] {
    context.action = [&] {
      std::printf("%s", app.help().c_str());
      return static_cast<int>(ExitCode::done);
    };
  });
  // Global options may stand behind the command as well.
  for (CLI::App* command : app.get_subcommands({})) command->fallthrough();
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    return code == 0 ? 0 : static_cast<int>(ExitCode::usage);
  }
  if (!context.action) {
    std::printf("%s", app.help().c_str());
    return static_cast<int>(argc == 1 ? ExitCode::done : ExitCode::usage);
  }
  return context.action();
}
