#include "reports/casebook/calibration_update.h"

#include <algorithm>

#include "base/text.h"
#include "costmodel/engine_profile.h"

namespace orrery {

namespace {

// The last third in time: what the host and the card do later is the hardest of what has not been seen, and
// steps side by side are too alike to be told apart by chance.
void divide(const MeasuredRun& run, MeasuredRun& seen, MeasuredRun& unseen) {
  seen = unseen = run;
  for (std::size_t e = 0; e < run.experiments.size(); ++e) {
    const auto& steps = run.experiments[e].steps;
    const auto cut = steps.begin() + static_cast<std::ptrdiff_t>(steps.size() - steps.size() / 3);
    seen.experiments[e].steps.assign(steps.begin(), cut);
    unseen.experiments[e].steps.assign(cut, steps.end());
  }
  for (MeasuredRun* part : {&seen, &unseen})
    std::erase_if(part->experiments, [](const MeasuredExperiment& e) { return e.steps.empty(); });
}

// Weighted by steps, of the launches or of the device's times.
bool better(const std::vector<FitError>& errors, const char* family) {
  double before = 0, after = 0;
  for (const FitError& e : errors) {
    if (!e.kind.starts_with(family)) continue;
    before += static_cast<double>(e.steps) * e.before;
    after += static_cast<double>(e.steps) * e.after;
  }
  return after < before;
}

void drop(std::vector<FittedTerm>& terms) {
  for (FittedTerm& t : terms) {
    if (!t.fitted) continue;
    t.fitted = false;
    t.note = "fitted " + format_fixed(t.value, 3) + " does not help the held-out steps";
    t.value = t.before;
  }
}

bool any_fitted(const std::vector<FittedTerm>& terms) {
  return std::any_of(terms.begin(), terms.end(), [](const FittedTerm& t) { return t.fitted; });
}

std::string errors_text(const std::vector<FitError>& errors) {
  TextTable table({"held-out steps", "n", "profile", "updated"});
  for (const FitError& e : errors)
    table.add(
        {e.kind, std::to_string(e.steps), format_fixed(e.before, 1) + " %", format_fixed(e.after, 1) + " %"});
  return table.to_string();
}

}  // namespace

Result<CalibrationUpdate> update_calibration(const MeasuredRun& run, const InstanceSpec& spec,
                                             const std::string& name, const std::string& source) {
  MeasuredRun seen, unseen;
  divide(run, seen, unseen);
  CalibrationUpdate out;
  ORRERY_TRY(fit, fit_steps(seen, spec));
  out.fit = std::move(fit);
  for (const MeasuredExperiment& e : seen.experiments) out.fitted_steps += e.steps.size();
  for (const MeasuredExperiment& e : unseen.experiments) out.held_out_steps += e.steps.size();
  const auto try_it = [&]() -> Status {
    out.engine_yaml = overlay_yaml(out.fit, spec, name, source);
    ORRERY_TRY(engine, parse_engine(out.engine_yaml, "engine.yaml (the update)"));
    InstanceSpec after = spec;
    after.engine.host = engine.host;
    after.engine.operator_factors = engine.operator_factors;
    ORRERY_TRY(errors, step_errors(unseen, spec, after));
    out.held_out = std::move(errors);
    return ok_status();
  };
  ORRERY_TRY_STATUS(try_it());
  const std::string tried = errors_text(out.held_out);
  if (!better(out.held_out, "launch")) drop(out.fit.host);
  if (!better(out.held_out, "device")) drop(out.fit.operators);
  out.host = any_fitted(out.fit.host);
  out.operators = any_fitted(out.fit.operators);
  if (!out.host && !out.operators)
    return make_error(
        ErrorKind::check_failed,
        "--update-calibration: what the log says does not make its last third better, which was "
        "held out; no profile was written\n" +
            tried);
  ORRERY_TRY_STATUS(try_it());
  return out;
}

Json calibration_update_json(const CalibrationUpdate& u) {
  Json errors = Json::array();
  for (const FitError& e : u.held_out)
    errors.push_back(
        {{"kind", e.kind}, {"steps", e.steps}, {"before_percent", e.before}, {"after_percent", e.after}});
  const auto terms = [](const std::vector<FittedTerm>& list) {
    Json out = Json::array();
    for (const FittedTerm& t : list)
      out.push_back({{"key", t.key},
                     {"profile", t.before},
                     {"value", t.value},
                     {"unit", t.unit},
                     {"deviation", t.deviation},
                     {"fitted", t.fitted},
                     {"note", t.note}});
    return out;
  };
  return {{"fitted_steps", u.fitted_steps},
          {"held_out_steps", u.held_out_steps},
          {"held_out", errors},
          {"host_kept", u.host},
          {"operators_kept", u.operators},
          {"host_us", terms(u.fit.host)},
          {"operators", terms(u.fit.operators)}};
}

std::string calibration_update_text(const CalibrationUpdate& u) {
  return "\ncalibration fitted to " + human_count(static_cast<double>(u.fitted_steps)) +
         " steps, tried on the last third of each load, " +
         human_count(static_cast<double>(u.held_out_steps)) + " steps (median absolute errors)" +
         (u.host ? "" : "; host times kept as they were") +
         (u.operators ? "" : "; operators kept as they were") + "\n" + errors_text(u.held_out);
}

}  // namespace orrery
