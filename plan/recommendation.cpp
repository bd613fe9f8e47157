#include "plan/recommendation.h"

#include <algorithm>
#include <filesystem>
#include <map>

#include "base/files.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "costmodel/energy.h"
#include "plan/around_text.h"
#include "plan/decision.h"
#include "plan/deploy.h"
#include "plan/mix_text.h"
#include "plan/pareto.h"
#include "plan/racing.h"
#include "plan/sensitivity.h"
#include "reports/page_parts.h"

namespace orrery {

namespace {

constexpr std::size_t most_answers = 3;  // the choice and two alternatives

const Candidate& candidate_of(const PlanSearch& search, const PlanEntry& entry) {
  return search.candidates.all[entry.candidate];
}

std::string plan_text(const PlanSearch& search, const PlanEntry& entry) {
  const Candidate& candidate = candidate_of(search, entry);
  const std::string label = candidate.label();
  const std::int64_t replicas = entry.score.replicas;  // of the first pool
  return replicas > 1 && (candidate.scenario == nullptr || candidate.scenario->other_pools.empty())
             ? label + ", " + std::to_string(replicas) + " instances"
             : label;
}

const MetricInterval* interval_of(const Finalist& finalist, const std::string& name) {
  for (const MetricInterval& m : finalist.intervals.metrics) {
    if (m.name == name) return &m;
  }
  return nullptr;
}

std::string interval_text(const MetricInterval* m, int decimals) {
  if (m == nullptr) return "-";
  return format_fixed(m->nominal, decimals) + " [" + format_fixed(m->low, decimals) + ", " +
         format_fixed(m->high, decimals) + "]";
}

std::string percent(double share) { return format_fixed(share * 100, 1) + " %"; }

// How many candidates left for which reason, most frequent first; equal ones in the order of their reasons.
std::vector<std::pair<std::string, std::uint64_t>> reasons_of(const PlanSearch& search) {
  std::map<std::string, std::uint64_t> counts;
  for (const Candidate& c : search.candidates.all) {
    if (c.rejected != RejectedBy::nothing) ++counts[std::string(to_string(c.rejected)) + ": " + c.reason];
  }
  std::vector<std::pair<std::string, std::uint64_t>> reasons(counts.begin(), counts.end());
  std::stable_sort(reasons.begin(), reasons.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return reasons;
}

Json values_json(const Candidate& candidate) {
  Json values = Json::object();
  for (const auto& [key, value] : candidate.values) values[key] = value;
  return values;
}

Json entry_json(const PlanSpace& space, const PlanSearch& search, const PlanEntry& entry) {
  const Candidate& candidate = candidate_of(search, entry);
  const PlanScore& s = entry.score;
  Json out;
  out["candidate"] = candidate.index;
  out["label"] = plan_text(search, entry);
  if (!candidate.shape.empty()) out["shape"] = candidate.shape;
  out["values"] = values_json(candidate);
  out["instances"] = s.replicas;
  out["gpus"] = s.gpus;
  out["meets_slo"] = s.has_slo ? Json(s.meets) : Json(nullptr);
  out["attainment"] = s.has_slo ? Json(s.attainment) : Json(nullptr);
  out["objective"] = shown_objective(s);
  out["e2e_ms.mean"] = s.mean_e2e_ms;
  out["ttft_ms"] = s.ttft_ms;
  out["tpot_ms"] = s.tpot_ms;
  out["output_tokens_per_s"] = s.output_tokens_per_s;
  out["requests_per_s"] = s.requests_per_s;
  out["usd_per_hour"] = s.usd_per_hour > 0 ? Json(s.usd_per_hour) : Json(nullptr);
  out["usd_per_million_output_tokens"] = s.usd_per_million > 0 ? Json(s.usd_per_million) : Json(nullptr);
  if (s.watts_per_gpu > 0) {
    out["joules_per_output_token"] = s.joules_per_token;
    out["watts_per_gpu"] = s.watts_per_gpu;
  }
  out["kv_peak"] = s.kv_peak;
  out["saturated"] = s.saturated;
  out["requests"] = entry.requests;
  if (!s.each.empty()) out["workloads"] = mix_json(space, s);
  return out;
}

Json intervals_json(const Intervals& intervals) {
  Json out = Json::object();
  for (const MetricInterval& m : intervals.metrics) out[m.name] = Json::array({m.nominal, m.low, m.high});
  return out;
}

Json finalist_json(const PlanSpace& space, const PlanSearch& search, const Finalist& finalist) {
  Json out = entry_json(space, search, finalist.entry);
  out["best_probability"] = finalist.best_probability;
  out["meets_probability"] = finalist.meets_probability;
  out["regret"] = finalist.regret;
  out["shortfall_points"] = finalist.shortfall;
  out["interval_90"] = intervals_json(finalist.intervals);
  for (std::size_t w = 0; w < finalist.further_intervals.size(); ++w)
    out["workloads"][w + 1]["interval_90"] = intervals_json(finalist.further_intervals[w]);
  return out;
}

std::string finalist_row(const PlanSpace& space, const PlanSearch& search, const Finalist& f) {
  const PlanScore& s = f.entry.score;
  return "| " + plan_text(search, f.entry) + " | " + std::to_string(s.gpus) + " | " +
         objective_text(space.objective, s) + " | " + (s.has_slo ? percent(s.attainment) : "-") + " | " +
         percent(f.meets_probability) + " | " + percent(f.best_probability) + " | " +
         interval_text(interval_of(f, "ttft_ms.p99"), 0) + " | " +
         interval_text(interval_of(f, "tpot_ms.p50"), 1) + " | " +
         interval_text(interval_of(f, "throughput.output_tokens_per_s"), 0) + " |\n";
}

std::string why(const PlanSpace& space, const PlanSearch& search) {
  const Finalist& choice = search.finalists.front();
  std::string out = "It is the best of " + std::to_string(search.candidates.feasible()) +
                    " deployments that were run, by " + to_string(space.objective) + ": " +
                    objective_text(space.objective, choice.entry.score) + ".";
  if (search.finalists.size() < 2) return out + "\n";
  const Finalist& next = search.finalists[1];
  out += " The next one of those that ran to the end, " + plan_text(search, next.entry) + ", has " +
         objective_text(space.objective, next.entry.score);
  if (next.entry.score.has_slo) out += " and answers " + percent(next.entry.score.attainment) + " in time";
  out += "; of " + std::to_string(space.draws) +
         " draws of what is uncertain in prices the choice is best in " + percent(choice.best_probability) +
         ", the next one in " + percent(next.best_probability) + ".\n";
  if (choice.best_probability < 0.8) {
    out +=
        "\nThe ranking is not settled: the figures that the choice rests on overlap with the next one's. "
        "`orrery live` with both, or `orrery calibrate` on the part, decides it.\n";
    out += what_to_measure(search, space.draws);
  }
  return out;
}

// A choice at the edge: nominal prices meet the SLO, and many of the draws do not.
std::string how_narrow(const PlanSearch& search) {
  constexpr double often = 0.9;
  const Finalist& choice = search.finalists.front();
  if (!choice.entry.score.has_slo || choice.meets_probability >= often) return "";
  std::string out =
      "\nIt meets the SLO narrowly, in " + percent(choice.meets_probability) + " of the draws. ";
  const auto safer = std::find_if(search.finalists.begin(), search.finalists.end(), [&](const Finalist& f) {
    return f.entry.score.meets && f.meets_probability >= often;
  });
  if (safer == search.finalists.end())
    return out + "No finalist does in " + percent(often) +
           "; an instance more, or a stricter `slo`, gives room.\n";
  return out + "The first that does in " + percent(often) + " or more is " + plan_text(search, safer->entry) +
         ".\n";
}

}  // namespace

bool has_choice(const PlanSearch& search) {
  return !search.finalists.empty() && search.finalists.front().entry.score.meets;
}

Json recommendation_json(const RecommendationInput& input) {
  const PlanSearch& search = *input.search;
  Json out;
  out["objective"] = to_string(input.space->objective);
  out["choice"] =
      has_choice(search) ? finalist_json(*input.space, search, search.finalists.front()) : Json(nullptr);
  out["alternatives"] = Json::array();
  for (std::size_t i = 1; has_choice(search) && i < std::min(most_answers, search.finalists.size()); ++i)
    out["alternatives"].push_back(finalist_json(*input.space, search, search.finalists[i]));
  out["reasons"] = has_choice(search) ? Json::array({why(*input.space, search) + how_narrow(search)})
                                      : Json::array({no_deployment(input).message});
  out["would_change"] = would_change(*input.space, search);
  out["verify_command"] = has_choice(search)
                              ? Json("orrery live choice.yaml --endpoint http://HOST:PORT --out live")
                              : Json(nullptr);
  out["finalists"] = Json::array();
  for (const Finalist& f : search.finalists)
    out["finalists"].push_back(finalist_json(*input.space, search, f));
  out["pareto"] = Json::array();
  for (const PlanEntry& entry : pareto_front(search))
    out["pareto"].push_back(entry_json(*input.space, search, entry));
  out["left_early"] = search.left.size();
  out["candidates"] = search.candidates.all.size();
  out["feasible"] = search.candidates.feasible();
  out["rejected"] = Json::array();
  for (const auto& [reason, count] : reasons_of(search))
    out["rejected"].push_back(Json{{"reason", reason}, {"candidates", count}});
  const PlanSavings& saved = search.saved;
  out["savings"] = Json{{"step_graphs", saved.graphs},    {"never_read", saved.unread},
                        {"by_bounds", saved.by_bounds},   {"by_racing", saved.by_racing},
                        {"to_the_end", saved.to_the_end}, {"racing_confidence", 1 - racing_doubt}};
  add_around(input, out);
  out["workload_requests"] = search.requests;
  out["draws"] = input.space->draws;
  out["command"] = input.command;
  out["version"] = input.version;
  return out;
}

namespace {

// Of finalists whose energy stands on figures that nobody measured.
std::string assumed_draws(const RecommendationInput& input) {
  if (input.space->objective != PlanObjective::energy) return "";
  std::vector<std::string> parts;
  for (const Finalist& f : input.search->finalists) {
    for (const PoolSpec* pool : candidate_of(*input.search, f.entry).scenario->pools()) {
      const std::string& part = pool->instance.hardware.name;
      const auto energy = load_energy(pool->instance.hardware);
      if (energy.ok() && energy->assumed() && std::find(parts.begin(), parts.end(), part) == parts.end())
        parts.push_back(part);
    }
  }
  return parts.empty() ? "" : "\nWhat the " + join(parts, ", ") + " draws is assumed (docs/energy.md).\n";
}

}  // namespace

std::string recommendation_markdown(const RecommendationInput& input) {
  const PlanSpace& space = *input.space;
  const PlanSearch& search = *input.search;
  std::string out = "# Recommendation\n\n";
  if (has_choice(search)) {
    out += "**" + plan_text(search, search.finalists.front().entry) + "**\n\n" + why(space, search) +
           how_narrow(search);
  } else {
    out += no_deployment(input).message + "\n";
  }
  if (const auto changes = would_change(space, search); !changes.empty()) {
    out += "\n## What would change the decision\n\n";
    for (const std::string& change : changes) out += "- " + change + "\n";
  }
  out += "\n## The last " + std::to_string(search.finalists.size()) + "\n\n";
  out += "| deployment | GPUs | " + std::string(to_string(space.objective)) +
         " | in time | meets the SLO in | is best in | TTFT p99, ms | TPOT p50, ms | output tokens/s |\n"
         "|---|---|---|---|---|---|---|---|---|\n";
  for (const Finalist& f : search.finalists) out += finalist_row(space, search, f);
  out += "\nIn brackets: 90 % intervals" +
         std::string(space.workloads.empty() ? "" : ", under the first workload") + ". \"In\": share of " +
         std::to_string(space.draws) +
         " runs, in each of which prices and host times are drawn anew, alike for all deployments.\n";
  out += assumed_draws(input) + mix_markdown(input);
  out +=
      "\n## Fewest GPUs against latency and throughput\n\nNo other deployment that was run on the whole "
      "workload has "
      "at most as many GPUs, at most the mean end-to-end latency and at least the output tokens per "
      "second.\n\n"
      "| deployment | GPUs | E2E mean, ms | output tokens/s |\n|---|---|---|---|\n";
  for (const PlanEntry& entry : pareto_front(search)) {
    out += "| " + plan_text(search, entry) + " | " + std::to_string(entry.score.gpus) + " | " +
           format_fixed(entry.score.mean_e2e_ms, 0) + " | " +
           format_fixed(entry.score.output_tokens_per_s, 0) + " |\n";
  }
  out += around_markdown(input);
  out += "\n## Who is not in it\n\n";
  out += std::to_string(search.candidates.all.size()) + " combinations, of which " +
         std::to_string(search.candidates.feasible()) + " were run, " +
         std::to_string(search.saved.to_the_end) + " of them to the end (candidates.csv).";
  if (search.saved.by_racing > 0) {
    out += " " + std::to_string(search.saved.by_racing) +
           " left on a part of it, each behind the leader on the same requests in all but " +
           format_fixed(racing_doubt * 100, 0) + " % of the draws of them.";
  }
  out += "\n\n";
  for (const auto& [reason, count] : reasons_of(search))
    out += "- " + std::to_string(count) + " × " + reason + "\n";
  if (has_choice(search)) {
    out +=
        "\n## Deploy and verify\n\n`deploy/choice`, `deploy/alternative-1` and `-2` start them (README.md "
        "there). "
        "What was predicted, measured on the running server:\n\n"
        "```sh\norrery simulate choice.yaml --out choice\n"
        "orrery live choice.yaml --endpoint http://HOST:PORT --out live   # or deploy/choice/check.sh "
        "URL\n```\n";
  }
  return out + "\nMade by `" + input.command + "`, orrery " + input.version + ".\n";
}

std::string recommendation_text(const RecommendationInput& input) {
  const PlanSearch& search = *input.search;
  std::string out;
  for (std::size_t i = 0; i < std::min(most_answers, search.finalists.size()); ++i) {
    const Finalist& f = search.finalists[i];
    const PlanScore& s = f.entry.score;
    out += i == 0 ? "choice      " : "then        ";
    out += plan_text(search, f.entry) + "\n            " + objective_text(input.space->objective, s);
    if (input.space->objective != PlanObjective::gpus) out += ", " + objective_text(PlanObjective::gpus, s);
    if (s.has_slo)
      out += ", in time " + percent(s.attainment) + ", meets the SLO in " + percent(f.meets_probability);
    out += std::string(s.has_slo ? " and is" : ",") + " best in " + percent(f.best_probability) +
           " of the draws\n";
  }
  out += "searched    " + std::to_string(search.candidates.all.size()) + " combinations, " +
         std::to_string(search.candidates.feasible()) + " of them run, " + std::to_string(search.runs) +
         " simulations";
  if (search.reused > 0) out += ", " + std::to_string(search.reused) + " answers from the store";
  return out + "\n";
}

std::string candidates_csv(const RecommendationInput& input) {
  const PlanSearch& search = *input.search;
  struct Fate {
    std::string fate, reason;
    const PlanEntry* entry = nullptr;
  };
  std::vector<Fate> fates(search.candidates.all.size());
  for (std::size_t i = 0; i < fates.size(); ++i) {
    const Candidate& c = search.candidates.all[i];
    if (c.rejected != RejectedBy::nothing)
      fates[i] = {"rejected", std::string(to_string(c.rejected)) + ": " + c.reason};
  }
  for (const PlanEntry& e : search.left)
    fates[e.candidate] = {"left", "behind others after " + std::to_string(e.requests) + " requests", &e};
  for (const Finalist& f : search.finalists) fates[f.entry.candidate] = {"finalist", "", &f.entry};
  std::string out =
      "candidate,label,fate,reason,requests,instances,gpus,meets,attainment,objective,ttft_ms,tpot_ms,"
      "e2e_mean_ms,output_tokens_per_s\n";
  const auto quoted = [](const std::string& text) {
    std::string escaped;
    for (const char c : text) escaped += c == '"' ? "\"\"" : std::string(1, c);
    return '"' + escaped + '"';
  };
  for (std::size_t i = 0; i < fates.size(); ++i) {
    out += std::to_string(i) + "," + quoted(search.candidates.all[i].label()) + "," + fates[i].fate + "," +
           quoted(fates[i].reason);
    if (const PlanEntry* e = fates[i].entry; e != nullptr) {
      const PlanScore& s = e->score;
      out += "," + std::to_string(e->requests) + "," + std::to_string(s.replicas) + "," +
             std::to_string(s.gpus) + "," + (s.meets ? "1" : "0");
      for (const double value :
           {s.attainment, shown_objective(s), s.ttft_ms, s.tpot_ms, s.mean_e2e_ms, s.output_tokens_per_s})
        out += "," + format_number(value);
    } else {
      out += ",,,,,,,,,,";
    }
    out += "\n";
  }
  return out;
}

Error no_deployment(const RecommendationInput& input) {
  const PlanSearch& search = *input.search;
  const SourceLocation where{input.space->file, 0, 0};
  if (search.finalists.empty()) {
    std::string message =
        "none of " + std::to_string(search.candidates.all.size()) + " combinations can be run";
    std::size_t shown = 0;
    for (const auto& [reason, count] : reasons_of(search)) {
      if (shown++ == most_answers) break;
      message += (shown == 1 ? ": " : "; ") + std::to_string(count) + " × " + reason;
    }
    message += nearest_rejected(search.candidates);
    const bool bound = std::any_of(search.candidates.all.begin(), search.candidates.all.end(),
                                   [](const Candidate& c) { return c.rejected == RejectedBy::bound; });
    return make_error(bound ? ErrorKind::no_deployment : ErrorKind::infeasible, message, where, "search");
  }
  const PlanEntry& nearest = nearest_missing(search);
  const Candidate& candidate = candidate_of(search, nearest);
  const PlanScore& s = nearest.score;
  std::string message = "no deployment meets the objective; the nearest is " + plan_text(search, nearest);
  if (!s.has_slo) {
    return make_error(ErrorKind::no_deployment,
                      message + ", which answers " + percent(s.attainment) +
                          " of the requests; all have to be. Own more GPUs, or offer less",
                      where, "search");
  }
  // Of several workloads that with the smallest share in time.
  std::size_t w = 0;
  while (w < candidate.further.size() && s.each[w].attainment > s.attainment) ++w;
  message += ": " + percent(s.attainment) + " of the requests " +
             (s.each.empty() ? std::string() : "of " + input.space->workloads[w].name + " ") + "in time, " +
             format_fixed(candidate.under(w).slo.percentile, 1) + " % have to be";
  message += missed_limits(*input.space, candidate, s);
  return make_error(ErrorKind::no_deployment, message, where, "slo");
}

namespace {

// The scenario as it was chosen: with its instances, and at the rate that it was run at.
Result<YamlDocument> document_of(const PlanSpace& space, const Scenario& scenario, const PlanScore& score) {
  ORRERY_TRY(document, YamlDocument::parse(scenario.yaml, space.file));
  if (space.most_replicas > 0) {
    const bool listed = document.root().optional("deployment").optional("pools").present();
    ORRERY_TRY_STATUS(document.set((listed ? "deployment.pools[0].replicas=" : "deployment.replicas=") +
                                   std::to_string(score.replicas)));
  }
  const double faster = space.growth * space.peak * score.rate_factor;
  if (faster != 1) {
    const Yaml workload = document.root().optional("workload");
    const double own = workload.optional("time_scale").number(1, 0, 1e9);
    const double until = workload.optional("limit").optional("duration_s").number(0, 0, 1e9);
    ORRERY_TRY_STATUS(document.set("workload.time_scale=" + format_number(own * faster)));
    if (until > 0)  // the same requests arrive in less time
      ORRERY_TRY_STATUS(document.set("workload.limit.duration_s=" + format_number(until / faster)));
  }
  return document;
}

}  // namespace

Status write_recommendation(const std::string& folder, const RecommendationInput& input) {
  const PlanSearch& search = *input.search;
  std::error_code ignored;  // writing says what is wrong
  std::filesystem::create_directories(folder, ignored);
  const auto write = [&](const std::string& name, const std::string& text) {
    return write_file_atomically(folder + "/" + name, text);
  };
  // What an earlier search left here is not this one's.
  for (const char* name :
       {"choice.yaml", "alternative-1.yaml", "alternative-2.yaml", "curves.csv", "recommendation.html"})
    std::filesystem::remove(std::filesystem::path(folder) / name, ignored);
  for (const auto& entry : std::filesystem::directory_iterator(folder, ignored)) {
    const std::string name = entry.path().filename().string();  // under a workload, whatever its name was
    if ((name.starts_with("choice-") || name.starts_with("alternative-")) && name.ends_with(".yaml"))
      std::filesystem::remove(entry.path(), ignored);
  }
  std::filesystem::remove_all(std::filesystem::path(folder) / "deploy", ignored);
  for (std::size_t i = 0; has_choice(search) && i < std::min(most_answers, search.finalists.size()); ++i) {
    const PlanEntry& entry = search.finalists[i].entry;
    ORRERY_TRY(document, document_of(*input.space, *candidate_of(search, entry).scenario, entry.score));
    const std::string name = i == 0 ? "choice" : "alternative-" + std::to_string(i);
    ORRERY_TRY_STATUS(write(name + ".yaml", document.dump()));
    for (std::size_t w = 1; w < entry.score.each.size(); ++w) {
      ORRERY_TRY(other, document_of(*input.space, candidate_of(search, entry).under(w), entry.score));
      ORRERY_TRY_STATUS(write(name + "-" + input.space->workloads[w].name + ".yaml", other.dump()));
    }
    ORRERY_TRY(deployment, deployment_of(*candidate_of(search, entry).scenario, document.dump()));
    for (const DeployFile& file : deploy_files(deployment, "../../" + name + ".yaml")) {
      const std::filesystem::path path = std::filesystem::path(folder) / "deploy" / name / file.name;
      std::filesystem::create_directories(path.parent_path(), ignored);
      ORRERY_TRY_STATUS(write_file_atomically(path.string(), file.text));
      constexpr auto run = std::filesystem::perms::owner_exec | std::filesystem::perms::group_exec |
                           std::filesystem::perms::others_exec;
      if (file.executable)
        std::filesystem::permissions(path, run, std::filesystem::perm_options::add, ignored);
    }
  }
  ORRERY_TRY_STATUS(write("recommendation.json", canonical_json(recommendation_json(input))));
  ORRERY_TRY_STATUS(write("recommendation.md", recommendation_markdown(input)));
  if (!search.around.curve.empty()) ORRERY_TRY_STATUS(write("curves.csv", curves_csv(search.around)));
  ORRERY_TRY_STATUS(write("candidates.csv", candidates_csv(input)));
  if (charts_library().empty()) return ok_status();
  ORRERY_TRY(page, recommendation_page(input));
  return write("recommendation.html", page);
}

}  // namespace orrery
