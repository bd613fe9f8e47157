// Energy of runs, and as an objective.
#include "sim/costed/energy.h"

#include "plan/bounded_space.h"
#include "plan/recommendation.h"
#include "plan_spaces.h"
#include "sim/costed/run.h"

using namespace orrery;
using plan_test::easy_slo;
using plan_test::scenario_text;
using plan_test::searched;
using plan_test::space_of;
using Folder = test::TempFolder;

namespace {

EnergyResult energy_of(const Folder& folder, const std::string& text) {
  auto scenario = load_scenario(folder.write("one.yaml", text), {});
  if (!scenario.ok()) FAIL(to_string(scenario.errors()));
  auto meter = EnergyMeter::create(*scenario);
  if (!meter.ok()) FAIL(to_string(meter.errors()));
  RunOptions options;
  options.energy = &*meter;
  const auto run = run_scenario(*scenario, options);
  REQUIRE(run.ok());
  const EnergyResult energy = meter->result(*run);
  // All that is drawn is drawn by a class of operators or by nobody; tokens share it.
  double sum = energy.idle_joules;
  for (const auto& [name, joules] : energy.by_class) sum += joules;
  CHECK(sum == Approx(energy.joules.nominal));
  CHECK(energy.per_token.nominal * static_cast<double>(run->output_tokens) == Approx(energy.joules.nominal));
  const double gpu_s = static_cast<double>(energy.gpus) * energy.span_s;
  CHECK(energy.joules.nominal > 125 * gpu_s);
  CHECK(energy.joules.nominal < 700 * gpu_s);
  CHECK(energy.joules.low < energy.joules.nominal);
  CHECK(energy.joules.high > energy.joules.nominal);
  return energy;
}

std::string with(std::string text, const std::string& from, const std::string& to) {
  text.replace(text.find(from), from.size(), to);
  return text;
}

}  // namespace

TEST_CASE("a run's boards draw between idle and their limit, and idle ones draw too") {
  const Folder folder;
  const std::string text = scenario_text(easy_slo, 60);
  const EnergyResult one = energy_of(folder, text);
  const EnergyResult two =
      energy_of(folder, with(text, "kernels: roofline", "kernels: roofline, replicas: 2"));
  CHECK(two.gpus == 2);
  CHECK(two.joules.nominal > one.joules.nominal);
  CHECK(two.idle_share > one.idle_share);
  CHECK(one.assumed.empty());
  CHECK(energy_of(folder, with(text, "hardware: h200", "hardware: h100")).assumed ==
        std::vector<std::string>{"h100"});
  // The same load on twice the GPUs: less than twice the energy, for the work is the same.
  CHECK(two.joules.nominal < 2 * one.joules.nominal);
  // Asking changes nothing of the run.
  auto scenario = load_scenario(folder.write("one.yaml", text), {});
  auto meter = EnergyMeter::create(*scenario);
  RunOptions options;
  options.energy = &*meter;
  CHECK(run_scenario(*scenario, options)->digest == run_scenario(*scenario)->digest);
}

TEST_CASE("what energy does not follow is refused by name") {
  const Folder folder;
  const auto refused = [&](const std::string& from, const std::string& to) {
    auto scenario = load_scenario(folder.write("bad.yaml", with(scenario_text(easy_slo, 9), from, to)), {});
    if (!scenario.ok()) FAIL(to_string(scenario.errors()));
    auto meter = EnergyMeter::create(*scenario);
    return meter.ok() ? std::string("accepted") : to_string(meter.errors());
  };
  CHECK(refused("kernels: roofline", "kernels: roofline, parallel: {pp: 2}").find("pipeline stages") !=
        std::string::npos);
  CHECK(refused("hardware: h200", "hardware: l40s").find("energy/l40s.yaml") != std::string::npos);
}

TEST_CASE("the fewest joules a token: exhaustive search's choice, within bounds") {
  const Folder folder;
  for (const char* counted : {"", "  replicas: {up_to: 4}\n"}) {
    const PlanSpace space =
        space_of(folder, scenario_text("slo: {ttft_ms: 300, tpot_ms: 12, percentile: 90}\n", 160) +
                             "search:\n  objective: energy\n  finalists: 1\n  draws: 2\n" + counted +
                             "  vary:\n    hardware: [h200, h100]\n    parallel.tp: [1, 2]\n"
                             "    engine_args.max_num_seqs: [8, 128]\n");
    SearchOptions all;
    all.exhaustive = true;
    const PlanSearch exhaustive = searched(space, all), search = searched(space);
    const PlanScore &a = exhaustive.finalists.front().entry.score, &b = search.finalists.front().entry.score;
    CHECK(a.objective == b.objective);
    const std::string said = recommendation_markdown({&space, &exhaustive, "", ""});
    const bool of_h100 =
        exhaustive.candidates.all[exhaustive.finalists.front().entry.candidate].parts.front() == "h100";
    CHECK((said.find("What the h100 draws is assumed") != std::string::npos) == of_h100);
    CHECK(a.joules_per_token > 0);
    BoundedSpace bounded(space, {});
    REQUIRE(bounded.make().ok());
    std::size_t known = 0;
    for (const PlanEntry& entry : exhaustive.left) {
      const ObjectiveBound& bound = bounded.bound(entry.candidate);
      if (!entry.score.meets || !bound.known) continue;
      ++known;
      CHECK(bound.objective > 0);
      CHECK(bound.objective <= entry.score.objective);
    }
    CHECK(known > 2);
  }
  // A part of which nothing is known is an error of the space; what is not followed is a reason.
  const std::string head = scenario_text("", 20) + "search:\n  objective: energy\n  draws: 2\n  vary:\n    ";
  auto unknown = search_plans(space_of(folder, head + "hardware: [h200, h20]\n"), {});
  REQUIRE_FALSE(unknown.ok());
  CHECK(unknown.errors().front().where.file.find("energy/h20.yaml") != std::string::npos);
  const PlanSearch stages = searched(space_of(folder, head + "parallel: [{tp: 1}, {pp: 2}]\n"));
  CHECK(stages.candidates.all[1].reason.find("pipeline stages") != std::string::npos);
}
