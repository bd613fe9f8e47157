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

Status write_report(const std::string& path, const ReportInput& input);

}  // namespace orrery
