// Runs every kernel case over the adversarial shapes against its double-precision reference: on a device, or
// in the CPU fibre simulator for kernels that run there.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "kernels/device.h"
#include "kernels/kernel_case.h"

namespace orrery::calibrate {

enum class CheckState : std::uint8_t { passed, failed, skipped };
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

struct CheckOptions {
  std::vector<std::string> ops;  // empty = all
  double most_work = 0;          // flops + bytes of a case; larger ones are skipped; 0 = no bound
  std::function<bool()> interrupted = [] { return false; };
  std::function<void(const CheckOutcome&)> report = [](const CheckOutcome&) {};
};

struct CheckSummary {
  std::vector<CheckOutcome> outcomes;
  std::size_t passed = 0, failed = 0, skipped = 0;
  bool interrupted = false;
  // Operators whose factory refused every shape: a check that checks nothing does not pass.
  std::vector<std::string> unchecked;
  // Operators that this machine cannot run: a library or a second device is missing.
  std::vector<std::string> unavailable;
  bool good() const { return failed == 0 && passed > 0 && unchecked.empty() && !interrupted; }
};

CheckSummary run_checks(std::span<const kernels::CaseEntry> entries, const CheckTarget& target,
                        const CheckOptions& options);

std::string outcome_text(const CheckOutcome& o);  // one line
std::string summary_text(const CheckSummary& s);
Json check_json(const CheckSummary& s, const std::string& where);

}  // namespace orrery::calibrate
