// A check as a log for people that grows while it runs, a JSON file for `--pack`, and lines on the console.
#pragma once

#include <cstdio>
#include <memory>
#include <string>

#include "base/result.h"
#include "calibrate/check.h"

namespace orrery::calibrate {

// <out>/<name>.log: every case and every operator as they end, each line on its way before the next case
// begins. Several processes may append to one log.
class CheckLog {
 public:
  // Begins the log anew, or goes on behind what another process wrote.
  static Result<CheckLog> open(const std::string& out, const std::string& name, bool append);
  void line(const std::string& text);
  void outcome(const CheckOutcome& o);           // failures to stderr too
  void operator_done(const OperatorSummary& o);  // to stdout too, unless quiet

  bool quiet = false;
  bool of_part = false;  // operators are told by whoever collects the parts

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  explicit CheckLog(std::FILE* file) : file_(file) {}
  std::unique_ptr<std::FILE, Close> file_;
};

// The summary behind the log, and <out>/<name>.json.
Status write_check(const CheckSummary& summary, const std::string& where, const std::string& out,
                   const std::string& name, CheckLog& log);

// Operators that the table lacks are a wrong command line.
Status known_operators(std::span<const kernels::CaseEntry> entries, const std::vector<std::string>& ops);

// Logs as it goes.
CheckSummary run_logged_checks(std::span<const kernels::CaseEntry> entries, const CheckTarget& target,
                               CheckOptions options, CheckLog& log);

}  // namespace orrery::calibrate
