// Runs every kernel case over the adversarial shapes against its double-precision reference: on a device, or
// in the CPU fibre simulator for kernels that run there.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "calibrate/timer.h"
#include "kernels/device.h"
#include "kernels/kernel_case.h"

namespace orrery::calibrate {

// left_out: there was no time for it.
enum class CheckState : std::uint8_t { passed, failed, skipped, left_out };
const char* to_string(CheckState state);

struct CheckOutcome {
  std::string op, shape, fill, kernel;
  CheckState state = CheckState::skipped;
  double worst = 0;  // largest error over its tolerance
  std::int64_t compared = 0;
  bool guards_intact = true;
  bool refused_here = false;  // skipped because the device could not prepare it
  std::string detail;         // why it failed or was skipped
};

// Where cases run. `run` launches and waits.
struct CheckTarget {
  kernels::DeviceMemory& memory;
  std::function<bool(const std::function<void(kernels::Stream)>&, std::string&)> run;
  bool simulator = false;
};

// What became of one operator, told when the last of its cases has ended.
struct OperatorSummary {
  std::string op;
  std::size_t passed = 0, failed = 0, skipped = 0, left_out = 0;
  double worst = 0;  // error over tolerance, of finite ones
  bool guards_intact = true;
  double seconds = 0;
};

struct CheckOptions {
  std::vector<std::string> ops;  // empty = all
  double most_work = 0;          // flops + bytes of a case; larger ones are skipped; 0 = no bound
  // Of `seconds`; operators share what is left of it, each begins with its cheapest cases.
  double deadline = std::numeric_limits<double>::infinity();
  std::function<double()> seconds = [] { return WallTimer().seconds(); };
  std::function<bool()> interrupted = [] { return false; };
  std::function<void(const CheckOutcome&)> begin = [](const CheckOutcome&) {};  // op, shape and fill are
                                                                                // known
  std::function<void(const CheckOutcome&)> report = [](const CheckOutcome&) {};
  std::function<void(const OperatorSummary&)> operator_done = [](const OperatorSummary&) {};
};

struct CheckSummary {
  std::vector<CheckOutcome> outcomes;
  std::size_t passed = 0, failed = 0, skipped = 0, left_out = 0;
  bool interrupted = false;
  // Operators whose factory refused every shape: a check that checks nothing does not pass.
  std::vector<std::string> unchecked;
  // Operators that this machine cannot run: a library or a second device is missing.
  std::vector<std::string> unavailable;
  // A check that was cut short by its budget is good as far as it went.
  bool good() const { return failed == 0 && passed + left_out > 0 && unchecked.empty() && !interrupted; }
  void add(const CheckOutcome& o);
};

CheckSummary run_checks(std::span<const kernels::CaseEntry> entries, const CheckTarget& target,
                        const CheckOptions& options);

OperatorSummary summarise(const std::string& op, const std::vector<CheckOutcome>& outcomes);
// Notes an operator of which no case ran as unchecked, unavailable or, where there was no time, neither.
void note_unchecked(const std::string& op, const std::vector<CheckOutcome>& outcomes, CheckSummary& s);

std::string outcome_text(const CheckOutcome& o);      // one line
std::string operator_text(const OperatorSummary& o);  // one line
std::string summary_text(const CheckSummary& s);
Json outcome_json(const CheckOutcome& o);
bool parse_outcome(const Json& json, CheckOutcome& o);  // false when it is not one
Json check_json(const CheckSummary& s, const std::string& where);

}  // namespace orrery::calibrate
