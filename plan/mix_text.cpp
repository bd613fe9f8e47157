#include "plan/mix_text.h"

#include "base/text.h"

namespace orrery {

Json mix_json(const PlanSpace& space, const PlanScore& score) {
  if (score.each.empty()) return nullptr;
  Json out = Json::array();
  for (std::size_t w = 0; w < score.each.size(); ++w) {
    const PlanScore& s = score.each[w];
    out.push_back(Json{{"name", space.workloads[w].name},
                       {"weight", space.workloads[w].weight},
                       {"meets_slo", s.has_slo ? Json(s.meets) : Json(nullptr)},
                       {"attainment", s.has_slo ? Json(s.attainment) : Json(nullptr)},
                       {"objective", shown_objective(s)},
                       {"ttft_ms", s.ttft_ms},
                       {"tpot_ms", s.tpot_ms},
                       {"e2e_ms.mean", s.mean_e2e_ms},
                       {"output_tokens_per_s", s.output_tokens_per_s},
                       {"requests_per_s", s.requests_per_s}});
  }
  return out;
}

std::string mix_markdown(const RecommendationInput& input) {
  const PlanSpace& space = *input.space;
  if (space.workloads.empty()) return "";
  constexpr std::size_t shown = 3;  // the choice and two alternatives
  std::string out = "\n## Under each workload\n\n";
  out += space.over == OverWorkloads::mean
             ? "The objective is the mean by weight; the SLO has to be met under each.\n\n"
             : "The objective is that of the worst; the SLO has to be met under each.\n\n";
  out += "| deployment | workload | weight | " + std::string(to_string(space.objective)) +
         " | in time | TTFT, ms | TPOT, ms |\n|---|---|---|---|---|---|---|\n";
  for (std::size_t f = 0; f < input.search->finalists.size() && f < shown; ++f) {
    const PlanEntry& entry = input.search->finalists[f].entry;
    for (std::size_t w = 0; w < entry.score.each.size(); ++w) {
      const PlanScore& s = entry.score.each[w];
      out += "| " + input.search->candidates.all[entry.candidate].label() + " | " + space.workloads[w].name +
             " | " + format_fixed(space.workloads[w].weight, 3) + " | " + objective_text(space.objective, s) +
             " | " + (s.has_slo ? format_fixed(s.attainment * 100, 1) + " %" : std::string("-")) + " | " +
             format_fixed(s.ttft_ms, 0) + " | " + format_fixed(s.tpot_ms, 1) + " |\n";
    }
  }
  return out;
}

}  // namespace orrery
