// `orrery calibrate --from-steps RUN --scenario FILE`: an engine profile over ours from an engine's own step
// log.
#include <cstdio>
#include <filesystem>

#include "base/files.h"
#include "base/json.h"
#include "cli/commands/calibrate.h"
#include "reports/casebook/step_fit.h"
#include "sim/costed/scenario.h"

namespace orrery {

namespace {

Json terms_json(const std::vector<FittedTerm>& terms) {
  Json list = Json::array();
  for (const FittedTerm& t : terms)
    list.push_back({{"key", t.key},
                    {"profile", t.before},
                    {"value", t.value},
                    {"unit", t.unit},
                    {"deviation", t.deviation},
                    {"fitted", t.fitted},
                    {"note", t.note}});
  return list;
}

Json fit_json(const StepFit& fit) {
  Json errors = Json::array();
  for (const FitError& e : fit.left_out)
    errors.push_back(
        {{"kind", e.kind}, {"steps", e.steps}, {"before_percent", e.before}, {"after_percent", e.after}});
  Json levels = Json::array();
  for (const HostLevel& l : fit.levels)
    levels.push_back({{"kind", l.kind},
                      {"steps", l.steps},
                      {"experiments", l.experiments},
                      {"factor", l.factor},
                      {"log_deviation", l.deviation},
                      {"verdict", verdict_of(l)}});
  return {{"host_us", terms_json(fit.host)},
          {"operators", terms_json(fit.operators)},
          {"left_out", errors},
          {"condition", fit.condition},
          {"steps", fit.steps},
          {"experiments", fit.experiments},
          {"parts", fit.parts},
          {"host_levels", levels},
          {"warnings", fit.warnings}};
}

}  // namespace

int fit_from_steps(const CalibrateOptions& options, const CommandContext& context) {
  if (options.scenario.empty())
    return report_errors(
        {make_error(ErrorKind::usage,
                    "--from-steps needs --scenario FILE: which part, model, plan and engine the log is of",
                    {}, "--scenario")});
  ScenarioOptions how;
  how.overrides = context.overrides;
  how.needs_workload = false;
  auto scenario = load_scenario(options.scenario, how);
  if (!scenario.ok()) return report_errors(scenario.errors());
  auto run = load_measured_run(options.from_steps);
  if (!run.ok()) return report_errors(run.errors());
  const InstanceSpec& spec = scenario->pool.instance;
  auto fit = fit_steps(*run, spec, options.leave_out);
  if (!fit.ok()) return report_errors(fit.errors());

  const std::string run_name =
      std::filesystem::path(options.from_steps).lexically_normal().filename().string();
  const std::string source =
      "step log " + run_name + ": " + spec.model.name + " on " + spec.hardware.name + ", " +
      std::to_string(fit->steps) + " steps of " +
      (fit->parts > 0 ? "one experiment" : std::to_string(fit->experiments) + " experiments");
  auto folder = AtomicDirectory::create(options.out);
  if (!folder.ok()) return report_errors(folder.errors());
  Status written = write_file_atomically(folder->file("engine.yaml"),
                                         overlay_yaml(*fit, spec, spec.engine.name + "-fitted", source));
  if (written.ok()) written = write_file_atomically(folder->file("fit.json"), canonical_json(fit_json(*fit)));
  if (written.ok()) written = folder->commit();
  if (!written.ok()) return report_errors(written.errors());
  if (context.json) {
    std::fputs(canonical_json(fit_json(*fit)).c_str(), stdout);
  } else if (!context.quiet) {
    std::fputs(step_fit_text(*fit).c_str(), stdout);
    std::printf("\n%s/engine.yaml: use it as deployment.engine\n", options.out.c_str());
  }
  return static_cast<int>(ExitCode::done);
}

}  // namespace orrery
