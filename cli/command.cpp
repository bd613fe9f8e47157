#include "cli/command.h"

#include "cli/console.h"

namespace orrery {

ExitCode exit_code(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::invalid_input: return ExitCode::invalid_input;
    case ErrorKind::usage: return ExitCode::usage;
    case ErrorKind::infeasible: return ExitCode::infeasible;
    case ErrorKind::no_deployment: return ExitCode::no_deployment;
    case ErrorKind::unavailable: return ExitCode::unavailable;
    case ErrorKind::check_failed: return ExitCode::check_failed;
    case ErrorKind::internal: return ExitCode::internal;
    case ErrorKind::interrupted: return ExitCode::interrupted;
  }
  return ExitCode::internal;
}

int report_errors(const Errors& errors) {
  for (const Error& error : errors) say(LogLevel::error, error.to_string());
  return errors.empty() ? static_cast<int>(ExitCode::internal)
                        : static_cast<int>(exit_code(errors.front().kind));
}

}  // namespace orrery
