// A fit as a profile file and as tables for people.
#include <algorithm>
#include <cstdio>

#include "base/json.h"
#include "reports/casebook/step_fit.h"

namespace orrery {

std::string overlay_yaml(const StepFit& fit, const InstanceSpec& spec, const std::string& name,
                         const std::string& text_of_source) {
  std::string source;  // inside double quotes
  for (const char ch : text_of_source) {
    if (ch == '"' || ch == '\\') source += '\\';
    source += ch;
  }
  const auto number = [](double value) { return format_fixed(value, 4); };
  std::string text = "# Made by `orrery calibrate --from-steps`. Use it as deployment.engine: this file.\n";
  text += "name: " + name + "\ndescription: " + spec.engine.name +
          " as fitted to a step log\nbase: " + spec.engine.name + "\nhost:\n";
  bool any = false;
  for (const FittedTerm& t : fit.host) {
    if (!t.fitted) continue;
    any = true;
    text += "  " + t.key + ": {value: " + number(std::max(0.0, t.value)) + ", unit: " + t.unit +
            ", kind: measured,\n    source: \"" + source + "; jackknife deviation " + number(t.deviation) +
            (t.note.empty() ? "" : "; " + t.note) + "\"}\n";
  }
  if (!any) text.replace(text.rfind("host:\n"), 6, "host: {}\n");
  any = false;
  std::string operators = "operators:\n";
  for (const FittedTerm& t : fit.operators) {
    if (!t.fitted) continue;
    any = true;
    operators += "  " + t.key + ": {value: " + number(t.value) +
                 ", unit: ratio, kind: measured,\n    source: \"" + source + "; jackknife deviation " +
                 number(t.deviation) + "\"}\n";
  }
  return any ? text + operators : text;
}

std::string step_fit_text(const StepFit& fit) {
  char line[256];
  std::string text = std::to_string(fit.steps) + " steps of " +
                     (fit.parts > 0 ? "one experiment, cut into " + std::to_string(fit.parts) +
                                          " parts of like steps: deviations and errors are flattered"
                                    : std::to_string(fit.experiments) + " experiments") +
                     "\n\n";
  const auto table = [&](const char* title, const char* unit, const std::vector<FittedTerm>& terms) {
    std::snprintf(line, sizeof line, "%-26s %10s %10s %10s  %s\n", title, "profile", "fitted", "± (jack.)",
                  unit);
    text += line;
    for (const FittedTerm& t : terms) {
      if (t.fitted)
        std::snprintf(line, sizeof line, "%-26s %10.3f %10.3f %10.3f  %s\n", t.key.c_str(), t.before, t.value,
                      t.deviation, t.note.c_str());
      else
        std::snprintf(line, sizeof line, "%-26s %10.3f %10s %10s  %s\n", t.key.c_str(), t.before, "kept", "",
                      t.note.c_str());
      text += line;
    }
    text += "\n";
  };
  table("host term", "µs, launch_jitter_median a factor", fit.host);
  table("operator class", "factor", fit.operators);
  text += "host work, over the profile's             steps loads    factor   ± (log)\n";
  for (const HostLevel& l : fit.levels) {
    std::snprintf(line, sizeof line, "%-40s %6zu %5zu %9.2f %9.2f  %s\n", l.kind.c_str(), l.steps,
                  l.experiments, l.factor, l.deviation, verdict_of(l));
    text += line;
  }
  text += "\n";
  std::snprintf(line, sizeof line,
                "condition of the operator classes: %.3g (above 1000 they are hard to tell apart)\n\n",
                fit.condition);
  text += line;
  if (!fit.left_out.empty()) {
    std::snprintf(line, sizeof line, "%-26s %8s %10s %10s\n", "left out while fitting", "steps", "profile",
                  "fitted");
    text += line;
    for (const FitError& e : fit.left_out) {
      std::snprintf(line, sizeof line, "%-26s %8zu %9.1f%% %9.1f%%\n", e.kind.c_str(), e.steps, e.before,
                    e.after);
      text += line;
    }
    text += "(median absolute error of a step, each experiment predicted from the others)\n";
  }
  for (const std::string& w : fit.warnings) text += "warning: " + w + "\n";
  return text;
}

}  // namespace orrery
