// The directory that `simulate --out` writes (interfaces §5): it appears as a whole, or not at all.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/files.h"
#include "reports/requests_csv.h"
#include "reports/summary.h"
#include "sim/costed/scenario.h"

namespace orrery {

struct OutputOptions {
  std::string level = "requests";  // summary | requests | all
  bool itl = false;
  bool steps_csv = false;
  bool handoffs = false;     // prefill and decode apart: where the time to the first token went
  std::string trace_window;  // "A:B" in seconds; empty = default
};

class RunOutputs {
 public:
  RunOutputs();
  RunOutputs(RunOutputs&&) noexcept;
  RunOutputs& operator=(RunOutputs&&) noexcept;
  ~RunOutputs();
  static Result<RunOutputs> create(const std::string& directory, const OutputOptions& options);

  RecordSink* sink();       // null when nobody asked for records
  RunObserver* observer();  // null when nobody asked for steps
  // Writes what is left (summary, report, resolved scenario, trace.json) and puts the directory in place.
  // `keep_going` stops a second pass that a long run's trace window needs. Returns warnings: what the
  // directory lacks, and why.
  Result<std::vector<std::string>> finish(const Scenario& scenario, const SummaryInput& summary,
                                          const std::string& title, const std::string& command,
                                          const std::function<bool(std::uint64_t)>& keep_going);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery
