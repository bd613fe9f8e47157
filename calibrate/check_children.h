// A check in which every operator runs in a process of its own: a kernel that never ends, or that takes the
// device's context with it, costs its own operator and no other.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "calibrate/check.h"
#include "calibrate/check_report.h"

namespace orrery::calibrate {

struct ChildOptions {
  // Program and arguments that check one operator within `budget_s` and write its part to a file.
  std::function<std::vector<std::string>(const std::string& op, const std::string& part, double budget_s)>
      command;
  std::string directory;    // of the parts
  double timeout_s = 25;    // then a child is killed, and what it was at has hung
  double margin_s = 4;      // of the timeout, for starting and ending: a child's budget is the rest
  std::size_t at_once = 4;  // most of a check is arithmetic on the host; the device is shared in time
  double deadline = std::numeric_limits<double>::infinity();  // of Timer
  std::function<bool()> interrupted = [] { return false; };
};

CheckSummary run_children(const std::vector<std::string>& ops, const ChildOptions& options, Timer& timer,
                          CheckLog& log);

// What a child writes: a line before each case and one after, each flushed.
class PartWriter {
 public:
  static Result<PartWriter> create(const std::string& path);
  void begin(const CheckOutcome& o);
  void end(const CheckOutcome& o);

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  explicit PartWriter(std::FILE* file) : file_(file) {}
  void line(const Json& json);
  std::unique_ptr<std::FILE, Close> file_;
};

struct Part {
  std::vector<CheckOutcome> outcomes;
  bool unfinished = false;  // `last` was begun and did not end
  CheckOutcome last;
};
Part read_part(const std::string& path);  // as far as it goes

}  // namespace orrery::calibrate
