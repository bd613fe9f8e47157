#include "reports/casebook/engine_fidelity.h"

#include <filesystem>

#include "base/files.h"

namespace orrery {

namespace {

Status measure_run(RunFidelity& f, const std::function<void(const std::string&)>& said) {
  said(f.run.name + ": schedule");
  ORRERY_TRY(measured, load_measured_run(f.run.folder));
  const ScheduleReplay replay = replay_schedule(measured);
  f.steps = replay.steps;
  f.identical = replay.identical;
  auto scenario = scenario_of(f.run, measured);
  if (!scenario.ok()) {
    f.skipped = to_string(scenario.errors());
    return ok_status();
  }
  ORRERY_TRY(pricer, StepPricer::create(scenario->pool.instance));
  said(f.run.name + ": step times");
  f.times = replay_step_times(measured, pricer);
  f.stalls = find_stalls(measured);
  const LoggedStepTimes times(measured, pricer, f.stalls, f.times);
  for (std::size_t i = 0; i < measured.experiments.size(); ++i) {
    said(f.run.name + ": " + measured.experiments[i].name);
    ORRERY_TRY(split, split_errors(*scenario, pricer, times, measured.experiments[i], replay.experiments[i],
                                   f.stalls));
    f.experiments.push_back(std::move(split));
  }
  return ok_status();
}

void check(EngineFidelity& f) {
  const auto percent = [](double x) { return format_fixed(100 * x, 2) + " %"; };
  for (const RunFidelity& r : f.runs) {
    const double share = r.steps == 0 ? 0 : static_cast<double>(r.identical) / static_cast<double>(r.steps);
    if (share < least_identical)
      f.failures.push_back(r.run.name + ": " + percent(share) + " of the steps are the log's, expected " +
                           percent(least_identical));
    if (r.skipped.empty() && r.times.running_on_median_abs > most_replay_error)
      f.failures.push_back(r.run.name + ": the recurrence misses the logged output times by " +
                           percent(r.times.running_on_median_abs) +
                           " in the median when it runs on by itself, expected " +
                           percent(most_replay_error));
  }
  for (const EngineCoverage& e : f.engines) {
    for (const std::string& s : e.uncited)
      f.failures.push_back(e.engine + ": no test names §" + s + ", which the table calls implemented");
    for (const std::string& s : e.missing)
      f.failures.push_back(e.engine + ": §" + s + " of " + e.reference + " is missing from the table");
  }
}

Json split_json(const MetricSplit& m) {
  return {{"metric", m.metric},           {"requests", m.requests},
          {"measured", m.measured},       {"predicted", m.predicted},
          {"step_time", m.step_time},     {"host", m.host},
          {"queueing", m.queueing},       {"client", m.has_outcomes ? Json(m.client) : Json()},
          {"mean_abs_error", m.mean_abs}, {"median_abs_error", m.median_abs},
          {"mean_error", m.mean_signed},  {"median_error", m.median_signed}};
}

Json run_json(const RunFidelity& r) {
  Json experiments = Json::array(), stalls = Json::array();
  for (const ExperimentSplit& e : r.experiments) {
    Json metrics = Json::array();
    for (const MetricSplit& m : e.metrics) metrics.push_back(split_json(m));
    experiments.push_back({{"name", e.experiment},
                           {"kind", e.kind},
                           {"left_out", e.left_out},
                           {"logged_steps", e.logged_steps},
                           {"free_running_in_place", e.in_place},
                           {"free_running_first_difference", e.first_difference},
                           {"free_running_partners", e.partners},
                           {"metrics", metrics}});
  }
  for (const Stall& s : r.stalls) {
    stalls.push_back({{"experiment", s.experiment},
                      {"step", s.step},
                      {"tokens", s.tokens},
                      {"ms", static_cast<double>(s.end_ns - s.begin_ns) / 1e6},
                      {"class_median_ms", s.class_median_ns / 1e6}});
  }
  return {{"name", r.run.name},
          {"hardware", r.run.hardware},
          {"model", r.run.model},
          {"fitted", r.run.fitted},
          {"skipped", r.skipped.empty() ? Json() : Json(r.skipped)},
          {"steps", r.steps},
          {"identical", r.identical},
          {"step_time_replay",
           {{"steps", r.times.steps},
            {"median_abs_error", r.times.median_abs},
            {"p90_abs_error", r.times.p90_abs},
            {"median_error", r.times.median_signed},
            {"running_on_median_abs_error", r.times.running_on_median_abs}}},
          {"stalls", stalls},
          {"experiments", experiments}};
}

}  // namespace

Result<RunFidelity> measure_run_fidelity(const EngineRun& run,
                                         const std::function<void(const std::string&)>& said) {
  RunFidelity r;
  r.run = run;
  ORRERY_TRY_STATUS(measure_run(r, said));
  return r;
}

Result<EngineFidelity> measure_engine_fidelity(const std::function<void(const std::string&)>& said) {
  EngineFidelity f;
  f.shared_found = std::filesystem::exists(data_directory() + "/../shared/truth");
  ORRERY_TRY(runs, list_engine_runs());
  for (const EngineRun& run : runs) {
    ORRERY_TRY(measured, measure_run_fidelity(run, said));
    f.runs.push_back(std::move(measured));
  }
  ORRERY_TRY(engines, rule_coverage());
  f.engines = std::move(engines);
  check(f);
  return f;
}

Json fidelity_json(const EngineFidelity& f) {
  Json runs = Json::array(), engines = Json::array();
  for (const RunFidelity& r : f.runs) runs.push_back(run_json(r));
  for (const EngineCoverage& e : f.engines) {
    Json rules = Json::array();
    for (const RuleCoverage& r : e.rules)
      rules.push_back({{"section", r.section},
                       {"title", r.title},
                       {"status", r.status},
                       {"note", r.note},
                       {"tests", r.tests}});
    engines.push_back({{"engine", e.engine},
                       {"reference", e.reference},
                       {"rules", rules},
                       {"uncited", e.uncited},
                       {"missing", e.missing}});
  }
  return {{"runs", runs}, {"published", f.published_data}, {"engines", engines}, {"failures", f.failures}};
}

std::string fidelity_csv(const EngineFidelity& f) {
  std::string csv =
      "run,experiment,kind,metric,requests,left_out,measured_ms,predicted_ms,step_time_ms,host_ms,queueing_"
      "ms,"
      "client_ms,mean_abs_error,median_abs_error,mean_error,median_error\n";
  for (const RunFidelity& r : f.runs) {
    for (const ExperimentSplit& e : r.experiments) {
      for (const MetricSplit& m : e.metrics) {
        csv += r.run.name + "," + e.experiment + "," + e.kind + "," + m.metric + "," +
               std::to_string(m.requests) + "," + std::to_string(e.left_out);
        for (const double v : {m.measured, m.predicted, m.step_time, m.host, m.queueing})
          csv += "," + format_fixed(v, 4);
        csv += "," + (m.has_outcomes ? format_fixed(m.client, 4) : std::string());
        for (const double v : {m.mean_abs, m.median_abs, m.mean_signed, m.median_signed})
          csv += "," + format_fixed(v, 5);
        csv += "\n";
      }
    }
  }
  return csv;
}

}  // namespace orrery
