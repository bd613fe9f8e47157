// A check as a log for people, a JSON file for `--pack`, and lines on the console.
#pragma once

#include <string>

#include "base/result.h"
#include "calibrate/check.h"

namespace orrery::calibrate {

// Writes <out>/<name>.log (every case) and <out>/<name>.json.
Status write_check(const CheckSummary& summary, const std::string& where, const std::string& out,
                   const std::string& name);

// Operators that the table lacks are a wrong command line.
Status known_operators(std::span<const kernels::CaseEntry> entries, const std::vector<std::string>& ops);

// Reports what fails to stderr as it is found.
CheckSummary run_reported_checks(std::span<const kernels::CaseEntry> entries, const CheckTarget& target,
                                 CheckOptions options, bool show_progress);

}  // namespace orrery::calibrate
