// `orrery live --endpoint` and `--measured`: what becomes of a measurement.
#pragma once

#include <string>

#include "base/result.h"
#include "cli/command.h"
#include "live/endpoint_client.h"
#include "sim/costed/scenario.h"

namespace orrery {

struct EndpointReportOptions {
  std::string out;  // folder; "": none
  std::string intervals = "auto";
  std::string steps, experiment;  // run folder of the server's step log, and which load of it; "": none
  bool update_calibration = false;
  std::string title;
};

// Compares, writes `out` (comparison.json, comparison.html, measured.csv; engine.yaml and calibration.json of
// an update) and prints. Nothing is written where an update is refused.
Result<int> report_endpoint(const EndpointRun& run, const Scenario& scenario,
                            const EndpointReportOptions& options, const CommandContext& context);

// The same for what an earlier run left in `folder`.
Result<int> report_measurement(const std::string& folder, const Scenario& scenario,
                               const EndpointReportOptions& options, const CommandContext& context);

}  // namespace orrery
