#include "plan/sensitivity.h"

#include <algorithm>

#include "base/json.h"
#include "costmodel/parallel_plan.h"
#include "plan/load_change.h"
#include "plan/rate_search.h"

namespace orrery {

namespace {

constexpr std::size_t most_compared = 3;  // the choice and two alternatives

// One case of what_if, ready to run.
struct Case {
  std::string name;
  double rate_factor = 1;
  ChangedLoad load = {};
  bool lost = false, node = false;
  std::string cannot = {};  // why it says nothing here
};

Case changed(std::string name, Result<ChangedLoad> load) {
  Case one{.name = std::move(name)};
  if (load.ok())
    one.load = std::move(load).value();
  else
    one.cannot = load.errors().front().message;
  return one;
}

std::vector<Case> cases_of(const PlanSpace& space, const WorkloadRequests& requests, std::uint64_t seed) {
  std::vector<Case> cases;
  for (const double factor : space.what_if.traffic)
    cases.push_back({.name = "traffic x " + format_number(factor), .rate_factor = factor});
  for (const double factor : space.what_if.prompts)
    cases.push_back(changed("prompts x " + format_number(factor), with_longer_prompts(requests, factor)));
  for (const double share : space.what_if.hit_rate)
    cases.push_back(changed("prefix hits x " + format_number(share), with_fewer_hits(requests, share, seed)));
  for (const std::string& what : space.what_if.lost)
    cases.push_back({.name = "one " + what + " lost", .lost = true, .node = what == "node"});
  return cases;
}

// Instances that go with a node of eight GPUs, or with one of them.
std::int64_t lost_instances(const Scenario& scenario, bool node) {
  constexpr std::int64_t gpus_of_node = 8;
  const std::int64_t each = scenario.pool.gpus() / scenario.pool.replicas;
  return node ? std::max<std::int64_t>(1, gpus_of_node / each) : 1;
}

// What it takes then, up to what the space allows and is owned.
Status size_anew(const Candidate& candidate, PlanRunner::Question question, double faster, PlanRunner& runner,
                 WhatIfPlan& plan) {
  const std::int64_t least = question.replicas + 1;
  if (least > runner.most_replicas(candidate)) return ok_status();
  question.replicas = std::max(least, static_cast<std::int64_t>(static_cast<double>(least - 1) * faster));
  ORRERY_TRY(sized, runner.fewest(candidate, {.least = least}, question));
  if (!sized.meets) return ok_status();
  plan.needs = sized.replicas;
  plan.sized = std::move(sized);
  return ok_status();
}

// Of one loss: so many instances meet the SLO without those that go.
Status lose(const Candidate& candidate, const PlanEntry& entry, bool node, PlanRunner::Question question,
            PlanRunner& runner, WhatIfPlan& plan) {
  if (const std::string fixed = instances_fixed(*candidate.scenario, true); !fixed.empty()) {
    plan.cannot = fixed + ": put the loss into `faults`";
    return ok_status();
  }
  const std::int64_t gone = lost_instances(*candidate.scenario, node), more = entry.score.replicas + gone;
  question.replicas = entry.score.replicas - gone;
  if (question.replicas < 1) {
    plan.cannot = "nothing is left";
  } else {
    ORRERY_TRY(score, runner.run(candidate, question));
    plan.score = std::move(score);
    plan.cannot = plan.score.refused;
  }
  const bool spare = plan.cannot.empty() && plan.score.meets;
  if (spare || (entry.score.meets && more <= runner.most_replicas(candidate)))
    plan.needs = spare ? entry.score.replicas : more;
  return ok_status();
}

Result<WhatIfPlan> try_case(const PlanSpace& space, const Candidate& candidate, const PlanEntry& entry,
                            const Case& one, std::uint64_t all, PlanRunner& runner) {
  WhatIfPlan plan{.candidate = entry.candidate};
  PlanRunner::Question question{.replicas = entry.score.replicas,
                                .requests = all,
                                .rate_factor = one.rate_factor * entry.score.rate_factor,
                                .load = one.load.requests != nullptr ? &one.load : nullptr};
  if (one.lost) {
    ORRERY_TRY_STATUS(lose(candidate, entry, one.node, question, runner, plan));
    return plan;
  }
  ORRERY_TRY(score, runner.run(candidate, question));
  plan.score = std::move(score);
  plan.cannot = plan.score.refused;
  if (!plan.cannot.empty() || plan.score.meets || space.most_replicas == 0) return plan;
  ORRERY_TRY_STATUS(size_anew(candidate, question, one.rate_factor, runner, plan));
  return plan;
}

std::vector<CurvePoint> points_of(const PlanSpace& space, const PlanEntry& entry) {
  std::vector<CurvePoint> points;
  for (const double rate : space.curves.rates)
    points.push_back({.curve = "rate", .rate_factor = rate, .replicas = entry.score.replicas});
  for (const std::int64_t replicas : space.curves.instances)
    points.push_back({.curve = "instances", .rate_factor = 1, .replicas = replicas});
  return points;
}

Status run_point(const PlanSpace& space, const Candidate& candidate, std::uint64_t all, PlanRunner& runner,
                 CurvePoint& point) {
  point.offered_per_s = offered_rate(*candidate.scenario, all) * point.rate_factor;
  if (!candidate.further.empty()) {  // by weight, as what is answered
    point.offered_per_s = 0;
    for (std::size_t w = 0; w < space.workloads.size(); ++w)
      point.offered_per_s +=
          space.workloads[w].weight * offered_rate(candidate.under(w), all) * point.rate_factor;
  }
  if (point.curve == "instances") point.cannot = instances_fixed(*candidate.scenario);
  if (!point.cannot.empty()) return ok_status();
  ORRERY_TRY(
      score,
      runner.run(candidate, {.replicas = point.replicas, .requests = all, .rate_factor = point.rate_factor}));
  point.score = std::move(score);
  point.cannot = point.score.refused;
  return ok_status();
}

void choose_best(WhatIfCase& result) {
  for (std::size_t f = 1; f < result.plans.size(); ++f) {
    const WhatIfPlan &best = result.plans[result.best], &other = result.plans[f];
    if (other.cannot.empty() && (!best.cannot.empty() || better(other.decides(), best.decides())))
      result.best = f;
  }
}

}  // namespace

Result<Sensitivity> look_around(const PlanSpace& space, const SearchOptions& options,
                                const PlanSearch& search, const WorkloadRequests& requests,
                                PlanRunner& runner) {
  Sensitivity out;
  if (search.finalists.empty() || !search.finalists.front().entry.score.meets) return out;
  const auto candidate = [&](std::size_t f) -> const Candidate& {
    return search.candidates.all[search.finalists[f].entry.candidate];
  };
  const std::size_t compared = std::min(most_compared, search.finalists.size());
  const std::vector<Case> cases = cases_of(space, requests, candidate(0).scenario->seed);
  for (const Case& one : cases) {
    out.cases.push_back({.name = one.name, .plans = {}, .best = 0, .cannot = one.cannot});
    if (one.cannot.empty()) out.cases.back().plans.resize(compared);
  }
  out.curve = points_of(space, search.finalists.front().entry);
  // All of it is one batch: none of these runs waits for another one.
  const std::size_t trials = cases.size() * compared;
  const auto piece = [&](std::size_t i) -> Status {
    if (i >= trials) return run_point(space, candidate(0), search.requests, runner, out.curve[i - trials]);
    const std::size_t c = i / compared, f = i % compared;
    if (out.cases[c].plans.empty()) return ok_status();
    ORRERY_TRY(plan,
               try_case(space, candidate(f), search.finalists[f].entry, cases[c], search.requests, runner));
    out.cases[c].plans[f] = std::move(plan);
    return ok_status();
  };
  if (trials + out.curve.size() > 0)
    ORRERY_TRY_STATUS(run_batch(options.crew, trials + out.curve.size(), options.threads, piece));
  for (WhatIfCase& result : out.cases) choose_best(result);
  return out;
}

std::string curves_csv(const Sensitivity& sensitivity) {
  std::string out =
      "curve,rate_factor,offered_requests_per_s,instances,gpus,meets,attainment,goodput_requests_per_s,ttft_"
      "ms,"
      "tpot_ms,e2e_mean_ms,output_tokens_per_s\n";
  for (const CurvePoint& p : sensitivity.curve) {
    if (!p.cannot.empty()) continue;
    const PlanScore& s = p.score;
    out += p.curve + "," + format_number(p.rate_factor) + "," + format_number(p.offered_per_s) + "," +
           std::to_string(s.replicas) + "," + std::to_string(s.gpus) + "," + (s.meets ? "1" : "0");
    for (const double value :
         {s.attainment, s.met_per_s, s.ttft_ms, s.tpot_ms, s.mean_e2e_ms, s.output_tokens_per_s})
      out += "," + format_number(value);
    out += "\n";
  }
  return out;
}

}  // namespace orrery
