#include "plan/around_text.h"

#include <cmath>

#include "base/text.h"
#include "plan/doubt.h"

namespace orrery {

namespace {

// Kernels are timed on the part; host times show in an engine that runs.
std::string command_of(const PlanSearch& search, const DoubtSource& doubt) {
  const Candidate& choice = search.candidates.all[search.finalists.front().entry.candidate];
  if (doubt.measure.empty()) return "orrery live choice.yaml --endpoint http://HOST:PORT --out live";
  return "orrery calibrate --ops " + doubt.measure + " --models " +
         choice.scenario->pool.instance.model.name + " --out calibration   # on " + choice.parts.front();
}

const DoubtSource* telling(const PlanSearch& search, std::int64_t draws) {
  if (search.doubts.empty()) return nullptr;
  const DoubtSource& first = search.doubts.front();
  return std::abs(first.correlation) >= least_correlation(static_cast<std::size_t>(draws)) ? &first : nullptr;
}

std::string label_of(const PlanSearch& search, std::size_t candidate) {
  return search.candidates.all[candidate].label();
}

Json plan_json(const PlanSpace& space, const PlanSearch& search, const WhatIfPlan& plan) {
  Json out;
  out["label"] = label_of(search, plan.candidate);
  out["instances_needed"] = plan.needs > 0 ? Json(plan.needs) : Json(nullptr);
  if (!plan.cannot.empty()) {
    out["says_nothing"] = plan.cannot;
    return out;
  }
  const PlanScore& s = plan.score;
  out["instances"] = s.replicas;
  out["meets_slo"] = s.has_slo ? Json(s.meets) : Json(nullptr);
  out["attainment"] = s.attainment;
  const bool of_rates = space.objective == PlanObjective::rate;  // of many runs
  out["objective"] = of_rates ? Json(nullptr) : Json(shown_objective(s));
  if (plan.sized.meets) out["objective_with_them"] = shown_objective(plan.sized);
  out["ttft_ms"] = s.ttft_ms;
  out["tpot_ms"] = s.tpot_ms;
  return out;
}

std::string case_row(const PlanSearch& search, const WhatIfCase& one) {
  std::string row = "| " + one.name + " | ";
  if (!one.cannot.empty()) return row + one.cannot + " | - | - |\n";
  const WhatIfPlan &choice = one.plans.front(), &best = one.plans[one.best];
  row += !choice.cannot.empty() ? choice.cannot
                                : format_fixed(choice.score.attainment * 100, 1) + " % with " +
                                      std::to_string(choice.score.replicas);
  row += " | " + (choice.needs > 0 ? std::to_string(choice.needs) : std::string("-")) + " | ";
  if (!best.cannot.empty()) return row + "- |\n";
  row += one.best == 0 ? "the choice" : label_of(search, best.candidate);
  if (best.sized.meets) row += ", " + std::to_string(best.needs) + " instances";
  return row + " |\n";
}

}  // namespace

void add_around(const RecommendationInput& input, Json& out) {
  const PlanSpace& space = *input.space;
  const PlanSearch& search = *input.search;
  if (!search.around.cases.empty()) {
    out["what_if"] = Json::array();
    for (const WhatIfCase& one : search.around.cases) {
      Json row;
      row["case"] = one.name;
      if (!one.cannot.empty()) {
        row["says_nothing"] = one.cannot;
      } else {
        row["changes_the_choice"] = one.best > 0;
        row["plans"] = Json::array();
        for (const WhatIfPlan& plan : one.plans) row["plans"].push_back(plan_json(space, search, plan));
      }
      out["what_if"].push_back(std::move(row));
    }
  }
  if (!search.around.curve.empty()) {
    out["curves"] = Json::array();
    for (const CurvePoint& p : search.around.curve) {
      Json row{{"curve", p.curve},
               {"rate_factor", p.rate_factor},
               {"offered_requests_per_s", p.offered_per_s},
               {"instances", p.replicas}};
      if (!p.cannot.empty()) {
        row["says_nothing"] = p.cannot;
      } else {
        row.update(Json{{"gpus", p.score.gpus},
                        {"attainment", p.score.attainment},
                        {"goodput_requests_per_s", p.score.met_per_s},
                        {"ttft_ms", p.score.ttft_ms},
                        {"tpot_ms", p.score.tpot_ms},
                        {"e2e_ms.mean", p.score.mean_e2e_ms}});
      }
      out["curves"].push_back(std::move(row));
    }
  }
  if (search.doubts.empty()) return;
  Json measure;
  measure["least_telling_correlation"] = least_correlation(static_cast<std::size_t>(space.draws));
  measure["correlations"] = Json::object();
  for (const DoubtSource& doubt : search.doubts) measure["correlations"][doubt.name] = doubt.correlation;
  const DoubtSource* first = telling(search, space.draws);
  measure["command"] = first != nullptr ? Json(command_of(search, *first)) : Json(nullptr);
  out["measure_next"] = std::move(measure);
}

std::string around_markdown(const RecommendationInput& input) {
  const PlanSearch& search = *input.search;
  std::string out;
  if (!search.around.cases.empty()) {
    out +=
        "\n## Under other circumstances\n\n| if | choice: in time | instances needed | best then "
        "|\n|---|---|---|---|\n";
    for (const WhatIfCase& one : search.around.cases) out += case_row(search, one);
    out += "\nBest with the instances that each needs then; of losses, with those that are left.\n";
  }
  if (!search.around.curve.empty()) {
    out +=
        "\n## How far it carries\n\n| offered, requests/s | instances | in time | goodput, requests/s | "
        "TTFT, ms "
        "| TPOT, ms |\n|---|---|---|---|---|---|\n";
    for (const CurvePoint& p : search.around.curve) {
      out += "| " + format_fixed(p.offered_per_s, 2) + " | " + std::to_string(p.replicas) + " | ";
      if (!p.cannot.empty()) {
        out += p.cannot + " | - | - | - |\n";
        continue;
      }
      out += format_fixed(p.score.attainment * 100, 1) + " % | " + format_fixed(p.score.met_per_s, 2) +
             " | " + format_fixed(p.score.ttft_ms, 0) + " | " + format_fixed(p.score.tpot_ms, 1) + " |\n";
    }
    out += "\nLatencies at the percentile of the SLO (curves.csv).\n";
  }
  return out;
}

std::string what_to_measure(const PlanSearch& search, std::int64_t draws) {
  const DoubtSource* first = telling(search, draws);
  if (first == nullptr) {
    return "No single operator class or host time goes with the distance between the first two in these "
           "draws; "
           "the draws are too few, or the two share all that is uncertain.\n";
  }
  return "The distance between the first two goes most with " + first->name + " (correlation " +
         format_fixed(first->correlation, 2) + " over " + std::to_string(draws) +
         " draws). What says most: `" + command_of(search, *first) + "`.\n";
}

}  // namespace orrery
