// Bounds where pools, stages, ranks and drafts share the work: never above what a run reaches.
#include "plan/bounded_space.h"
#include "plan_spaces.h"

using namespace orrery;
using plan_test::searched;
using plan_test::space_of;
using Folder = test::TempFolder;

namespace {

std::string shared_space(const std::string& objective, const std::string& load, const std::string& shapes) {
  return "deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}\n" + load +
         "slo: {ttft_ms: 2000, tpot_ms: 25, percentile: 80}\nseed: 5\nsearch:\n  objective: " + objective +
         "\n  finalists: 1\n  draws: 2\n  prices: {h200: 4, h100: 2.5}\n  shapes:\n" + shapes;
}

const std::string arrives =
    "workload:\n  generator: {requests: 100, arrivals: {process: poisson, rate: 20}, input: {distribution: "
    "fixed, value: 2000}, output: {distribution: fixed, value: 50}}\n";
const std::string closed =
    "workload:\n  closed_loop: {concurrency: 32}\n  generator: {requests: 100, arrivals: {process: fixed, "
    "rate: 1000}, input: {distribution: fixed, value: 2000}, output: {distribution: fixed, value: 50}}\n";

const std::string pd =
    "    - name: apart\n      deployment:\n        topology: {preset: hopper-8}\n        pools:\n"
    "          - {name: p, role: prefill, hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: "
    "roofline}\n"
    "          - {name: d, role: decode, hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: "
    "roofline}\n"
    "      vary:\n        \"pools[0].replicas\": [1, 2]\n        \"pools[1].replicas\": [1, 2]\n";
const std::string others =
    "    - name: stages\n      vary: {parallel: [{pp: 2}, {tp: 2, pp: 2}], engine_args.max_num_seqs: [8, "
    "64]}\n"
    "    - name: ranks\n      deployment: {hardware: h200, model: qwen3-30b-a3b, engine: sglang-0.5, "
    "kernels: "
    "roofline}\n      vary: {parallel: [{dp: 2, ep: 2}, {dp: 4, ep: 4}]}\n"
    "    - name: drafts\n      vary: {speculation: [{method: ngram, tokens: 3, acceptance: [0.6, 0.5, "
    "0.4]}]}\n"
    "    - name: plain\n      vary: {parallel.tp: [1, 2, 4, 8]}\n";

}  // namespace

TEST_CASE("of pools, stages, ranks and drafts the best is never ruled out, and bounds hold") {
  const Folder folder;
  std::size_t known = 0, by_time = 0;
  std::uint64_t ruled_out = 0;
  const std::pair<const char*, const std::string*> kinds[] = {{"goodput", &arrives},
                                                              {"cost", &arrives},
                                                              {"gpus", &arrives},
                                                              {"throughput", &closed},
                                                              {"energy", &closed}};
  for (const auto& kind : kinds) {
    const std::string objective = kind.first;
    const bool energy = objective == "energy";  // which follows no stages
    const PlanSpace space = space_of(
        folder, shared_space(objective, *kind.second,
                             pd + (energy ? others.substr(others.find("    - name: ranks")) : others)));
    SearchOptions all;
    all.exhaustive = true;
    const PlanSearch exhaustive = searched(space, all), search = searched(space);
    INFO(objective);
    CHECK(search.finalists.front().entry.score.objective ==
          exhaustive.finalists.front().entry.score.objective);
    ruled_out += search.saved.by_bounds;
    BoundedSpace bounded(space, {});
    REQUIRE(bounded.make().ok());
    const auto check = [&](const PlanEntry& entry) {
      const Candidate& candidate = bounded.list().all[entry.candidate];
      const ObjectiveBound& bound = bounded.bound(entry.candidate);
      INFO(candidate.label());
      if (!entry.score.meets || candidate.shape == "plain") return;
      CHECK(bound.known);
      ++known;
      CHECK(bound.objective <= entry.score.objective);
      // A closed loop has no arrivals: what bounds it is device time.
      by_time += kind.second == &closed && bound.objective != 0 && bound.objective > -1e12 ? 1 : 0;
    };
    for (const PlanEntry& entry : exhaustive.left) check(entry);
    for (const Finalist& finalist : exhaustive.finalists) check(finalist.entry);
  }
  CHECK(known > 20);
  CHECK(by_time > 4);
  CHECK(ruled_out > 10);
}
