// report.html: one offline page with what a person asks, in the order in which they ask it.
#pragma once

#include <string>
#include <vector>

#include "costmodel/step_pricer.h"
#include "reports/summary.h"
#include "sim/costed/scenario.h"

namespace orrery {

struct ReportInput {
  const Scenario* scenario = nullptr;
  const SummaryInput* summary = nullptr;
  std::string title;
  std::string command;                                            // that reproduces the run
  std::vector<std::pair<std::string, StepBreakdown>> breakdowns;  // typical steps, by name
};

// Path of the charts library, empty when ./dev has not fetched it (then there is no report).
std::string charts_library();

Status write_report(const std::string& path, const ReportInput& input);

}  // namespace orrery
