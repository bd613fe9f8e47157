// What every command of the binary shares: global options, and how errors become messages and exit codes.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "base/result.h"

namespace CLI {
class App;
}

namespace orrery {

// Documented in `orrery help` and docs; one enum for the whole binary.
enum class ExitCode : int {
  done = 0,
  usage = 2,          // wrong command line
  invalid_input = 3,  // file, line, column, key, what was expected
  infeasible = 4,     // does not fit; says by how much and what would fit
  no_deployment = 5,  // no deployment meets the objective; says the nearest
  unavailable = 6,    // needed device or endpoint not available
  check_failed = 7,   // replay differs, validation outside its bar
  internal = 70,
  interrupted = 130,
};
ExitCode exit_code(ErrorKind kind);

struct CommandContext {
  bool quiet = false;
  bool json = false;           // main result as JSON on stdout
  std::string color = "auto";  // auto | always | never
  std::string log_level = "warning";
  int threads = 1;
  std::string command_line;            // as a shell would take it, for reports
  std::vector<std::string> overrides;  // --set path.to.key=value
  std::function<int()> action;         // set by the chosen subcommand's callback; run by main after parsing
};

// Prints the errors to stderr, one a line, and returns the exit code of the first one.
int report_errors(const Errors& errors);

}  // namespace orrery
