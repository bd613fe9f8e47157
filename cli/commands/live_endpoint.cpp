#include "cli/commands/live_endpoint.h"

#include <cstdio>
#include <filesystem>
#include <optional>

#include "base/files.h"
#include "base/json.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "cli/interval_runs.h"
#include "live/endpoint_comparison.h"
#include "live/measurement.h"
#include "reports/casebook/calibration_update.h"
#include "workloads/workload.h"

namespace orrery {

namespace {

Result<CalibrationUpdate> updated(const MeasuredRun& log, const Scenario& scenario,
                                  const std::string& folder) {
  const InstanceSpec& spec = scenario.pool.instance;
  const std::string name = std::filesystem::path(folder).lexically_normal().filename().string();
  return update_calibration(log, spec, spec.engine.name + "-updated",
                            "step log " + name + ": " + spec.model.name + " on " + spec.hardware.name +
                                ", the first two thirds of each load");
}

Status write_all(const EndpointReportOptions& options, const EndpointComparison& comparison,
                 const EndpointRun& run, const std::optional<CalibrationUpdate>& update,
                 const CommandContext& context) {
  ORRERY_TRY(out, AtomicDirectory::create(options.out));
  const auto write = [&](const char* name, const std::string& text) {
    return write_file_atomically(out.file(name), text);
  };
  ORRERY_TRY(page, endpoint_page(comparison, run, options.title, context.command_line));
  ORRERY_TRY_STATUS(write("comparison.json", canonical_json(endpoint_json(comparison, run))));
  ORRERY_TRY_STATUS(write("measured.csv", measured_csv(run)));
  ORRERY_TRY_STATUS(write("comparison.html", page));
  if (update) {
    ORRERY_TRY_STATUS(write("engine.yaml", update->engine_yaml));
    ORRERY_TRY_STATUS(write("calibration.json", canonical_json(calibration_update_json(*update))));
  }
  return out.commit();
}

}  // namespace

Result<int> report_endpoint(const EndpointRun& run, const Scenario& scenario,
                            const EndpointReportOptions& options, const CommandContext& context) {
  ORRERY_TRY(runs, interval_runs(options.intervals));
  BenchmarkCompareOptions how{.runs = runs, .threads = context.threads};
  how.keep_going = [](std::uint64_t) { return !interrupted(); };
  ORRERY_TRY(comparison, compare_with_endpoint(scenario, run, how));
  std::optional<CalibrationUpdate> update;
  if (!options.steps.empty()) {
    ORRERY_TRY(log, load_measured_run(options.steps));
    if (options.update_calibration) {
      ORRERY_TRY(u, updated(log, scenario, options.steps));
      update = std::move(u);
    }
    ORRERY_TRY_STATUS(add_step_evidence(comparison, scenario, run, std::move(log), options.experiment));
  }
  if (!options.out.empty()) ORRERY_TRY_STATUS(write_all(options, comparison, run, update, context));
  if (run.late())
    say(LogLevel::warning, "the client was late: what it measured is as much its own as the server's");
  if (context.json) {
    Json json = endpoint_json(comparison, run);
    if (update) json["calibration"] = calibration_update_json(*update);
    std::fputs(canonical_json(json).c_str(), stdout);
  } else if (!context.quiet) {
    std::fputs(endpoint_text(comparison, run).c_str(), stdout);
    if (update) {
      std::fputs(calibration_update_text(*update).c_str(), stdout);
      std::printf("%s/engine.yaml: use it as deployment.engine\n", options.out.c_str());
    }
  }
  return static_cast<int>(ExitCode::done);
}

Result<int> report_measurement(const std::string& folder, const Scenario& scenario,
                               const EndpointReportOptions& options, const CommandContext& context) {
  ORRERY_TRY(source, open_workload(scenario.workload, scenario.seed));
  ORRERY_TRY(run, read_measurement(folder, *source));
  return report_endpoint(run, scenario, options, context);
}

}  // namespace orrery
