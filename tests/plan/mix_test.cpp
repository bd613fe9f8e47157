// Several workloads: each deployment under each of them.
#include <algorithm>

#include "plan/bounded_space.h"
#include "plan/crew.h"
#include "plan/recommendation.h"
#include "plan_spaces.h"

namespace orrery {
namespace {

using plan_test::searched;
using plan_test::space_of;
using Folder = test::TempFolder;

std::string load(int requests, int rate, int prompt, int output) {
  return "{generator: {requests: " + std::to_string(requests) +
         ", arrivals: {process: poisson, rate: " + std::to_string(rate) +
         "}, input: {distribution: fixed, value: " + std::to_string(prompt) +
         "}, output: {distribution: fixed, value: " + std::to_string(output) + "}}}";
}

// Short questions three parts of four, long documents the fourth.
std::string two_workloads(const std::string& objective, const std::string& more = "") {
  return "deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}\nseed: 3\n"
         "search:\n  objective: " +
         objective + "\n  finalists: 1\n  draws: 2\n" + more +
         "  prices: {h200: 4, h100: 2.5, h20: 1.2, l40s: 0.9}\n  workloads:\n"
         "    - {name: chat, weight: 3, workload: " +
         load(160, 30, 500, 60) +
         ", slo: {ttft_ms: 400, tpot_ms: 15, percentile: 90}}\n"
         "    - {name: documents, weight: 1, workload: " +
         load(80, 5, 6000, 30) +
         ", slo: {ttft_ms: 1500, tpot_ms: 30, percentile: 80}}\n"
         "  vary:\n    hardware: [h20, h100, h200, l40s]\n    parallel.tp: [1, 2]\n"
         "    engine_args.max_num_seqs: [8, 128]\n";
}

std::string alone(const std::string& text, const std::string& workload, const std::string& slo) {
  std::string out = text;
  const std::size_t from = out.find("  workloads:"), to = out.find("  vary:");
  out.replace(from, to - from, "");
  return "workload: " + workload + "\nslo: " + slo + "\n" + out;
}

std::string answer(const PlanSpace& space, const PlanSearch& search) {
  return canonical_json(recommendation_json({&space, &search, "", ""})) +
         recommendation_markdown({&space, &search, "", ""}) + candidates_csv({&space, &search, "", ""});
}

TEST_CASE("a deployment's score is the weighted sum of what it is under each workload alone") {
  const Folder folder;
  SearchOptions all;
  all.exhaustive = true;
  for (const char* objective : {"cost", "latency"}) {
    const std::string text = two_workloads(objective, "  over_workloads: mean\n");
    const PlanSearch both = searched(space_of(folder, text), all);
    const std::string bare = two_workloads(objective);
    const PlanSearch chat = searched(
        space_of(folder, alone(bare, load(160, 30, 500, 60), "{ttft_ms: 400, tpot_ms: 15, percentile: 90}")),
        all);
    const PlanSearch documents = searched(
        space_of(folder, alone(bare, load(80, 5, 6000, 30), "{ttft_ms: 1500, tpot_ms: 30, percentile: 80}")),
        all);
    const auto score = [](const PlanSearch& search, std::size_t candidate) -> const PlanScore* {
      for (const PlanEntry& e : search.left) {
        if (e.candidate == candidate) return &e.score;
      }
      for (const Finalist& f : search.finalists) {
        if (f.entry.candidate == candidate) return &f.entry.score;
      }
      return nullptr;
    };
    std::size_t compared = 0, only_one_met = 0;
    for (std::size_t i = 0; i < both.candidates.all.size(); ++i) {
      const PlanScore *mixed = score(both, i), *a = score(chat, i), *b = score(documents, i);
      if (mixed == nullptr) continue;
      REQUIRE(a != nullptr);
      REQUIRE(b != nullptr);
      REQUIRE(mixed->each.size() == 2);
      CHECK(mixed->each[0].objective == a->objective);
      CHECK(mixed->each[1].objective == b->objective);
      CHECK(mixed->objective == Approx(0.75 * a->objective + 0.25 * b->objective));
      CHECK(mixed->meets == (a->meets && b->meets));
      CHECK(mixed->attainment == std::min(a->attainment, b->attainment));
      only_one_met += a->meets != b->meets ? 1 : 0;
      ++compared;
    }
    CHECK(compared > 8);
    CHECK(only_one_met > 0);
    REQUIRE(has_choice(both));
    CHECK(both.finalists.front().entry.score.each[0].meets);
    CHECK(both.finalists.front().entry.score.each[1].meets);
  }
}

TEST_CASE("of several workloads the best is never ruled out, and bounds hold") {
  const Folder folder;
  std::uint64_t known = 0, ruled_out = 0;
  const std::pair<const char*, const char*> kinds[] = {
      {"cost", "mean"}, {"gpus", "worst"}, {"throughput", "worst"}, {"goodput", "worst"}};
  for (const auto& kind : kinds) {
    const std::string objective = kind.first, over = kind.second;
    const bool counted = objective == "cost" || objective == "throughput";
    const PlanSpace space =
        space_of(folder, two_workloads(objective, "  over_workloads: " + over + "\n" +
                                                      (counted ? "  replicas: {up_to: 6}\n" : "")));
    SearchOptions all;
    all.exhaustive = true;
    const PlanSearch exhaustive = searched(space, all), search = searched(space);
    REQUIRE(has_choice(exhaustive));
    REQUIRE(has_choice(search));
    INFO(objective << " " << over);
    CHECK(search.finalists.front().entry.score.objective ==
          exhaustive.finalists.front().entry.score.objective);
    // What is shown is what was searched for: the worst's, where that counts.
    const PlanScore& best = search.finalists.front().entry.score;
    const auto worst =
        std::max_element(best.each.begin(), best.each.end(),
                         [](const PlanScore& a, const PlanScore& b) { return a.objective < b.objective; });
    if (over == "worst")
      CHECK(objective_text(space.objective, best) == objective_text(space.objective, *worst));
    ruled_out += search.saved.by_bounds;
    BoundedSpace bounded(space, {});
    REQUIRE(bounded.make().ok());
    for (const PlanEntry& entry : exhaustive.left) {
      const ObjectiveBound& bound = bounded.bound(entry.candidate);
      if (!entry.score.meets || !bound.known) continue;
      ++known;
      CHECK(bound.objective <= entry.score.objective);
      CHECK(bound.instances <= entry.score.replicas);
    }
  }
  CHECK(known > 15);
  CHECK(ruled_out > 2);
}

TEST_CASE("several workloads: the same bytes for any number of threads, after a stop, and from shards") {
  const Folder folder;
  const PlanSpace space =
      space_of(folder, two_workloads("cost",
                                     "  replicas: {up_to: 4}\n  what_if: {traffic: [2], prompts: [2], lost: "
                                     "[instance]}\n  curves: {rates: [0.5], instances: [2]}\n"));
  const PlanSearch whole = searched(space);
  REQUIRE(whole.around.cases.size() == 3);
  SearchOptions threads;
  threads.threads = 3;
  CHECK(answer(space, searched(space, threads)) == answer(space, whole));

  SearchOptions stopped;
  stopped.store = folder.file("plan.sqlite");
  std::uint64_t done = 0;
  stopped.progress = [&](std::uint64_t, std::uint64_t, const char*) { ++done; };
  stopped.keep_going = [&] { return done < 6; };
  REQUIRE_FALSE(search_plans(space, stopped).ok());
  SearchOptions again;
  again.store = stopped.store;
  again.start = StoreStart::resume;
  const PlanSearch resumed = searched(space, again);
  CHECK(answer(space, resumed) == answer(space, whole));
  CHECK(resumed.reused > 0);

  // Two shards, pass after pass, until the join has all.
  const std::string stores[] = {folder.file("a.sqlite"), folder.file("b.sqlite")};
  const std::string joined = folder.file("joined.sqlite");
  for (int pass = 0; pass < 12; ++pass) {
    for (std::uint64_t i = 0; i < 2; ++i) {
      ShardCrew crew(i, 2);
      SearchOptions shard;
      shard.store = stores[i];
      shard.start = StoreStart::either;
      if (pass > 0) shard.others = {joined};
      shard.crew = &crew;
      (void)search_plans(space, shard);
    }
    ShardCrew merger(0, 0);
    SearchOptions merge;
    merge.store = joined;
    merge.start = StoreStart::either;
    merge.others = {stores[0], stores[1]};
    merge.crew = &merger;
    auto merged = search_plans(space, merge);
    if (merger.missing() > 0) continue;
    REQUIRE(merged.ok());
    CHECK(answer(space, *merged) == answer(space, whole));
    return;
  }
  FAIL("twelve passes were not enough");
}

TEST_CASE("workloads from files, and what is refused of them") {
  const Folder folder;
  folder.write("chat.yaml", "deployment: {hardware: h200}\nworkload: " + load(40, 10, 300, 20) +
                                "\nslo: {ttft_ms: 900, percentile: 90}\n");
  const std::string head =
      "deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}\n";
  const auto space = load_space(folder.write(
      "files.yaml", head +
                        "search: {objective: gpus, draws: 2, workloads: [{workload: chat.yaml}, {workload: " +
                        load(40, 10, 300, 20) + ", slo: {tpot_ms: 50}, weight: 3}]}\n"));
  REQUIRE(space.ok());
  CHECK(space->workloads[0].weight == 0.25);
  CHECK(space->workloads[0].name == "workload 1");
  CHECK(searched(*space).finalists.front().entry.score.each.size() == 2);

  const auto message = [&](const std::string& text) {
    auto bad = load_space(folder.write("bad.yaml", head + text));
    if (bad.ok()) {
      auto search = search_plans(*bad, {});
      return search.ok() ? std::string("accepted") : to_string(search.errors());
    }
    return to_string(bad.errors());
  };
  const std::string one = "{workload: " + load(9, 1, 9, 9) + "}";
  CHECK(message("search: {objective: latency, over_workloads: worst}\n").find("give `search.workloads`") !=
        std::string::npos);
  CHECK(
      message("workload: " + load(9, 1, 9, 9) + "\nsearch: {objective: latency, workloads: [" + one + "]}\n")
          .find("beside `workload`") != std::string::npos);
  CHECK(message("search: {objective: latency, workloads: []}\n").find("needs a list") != std::string::npos);
  CHECK(message("search: {objective: latency, workloads: [{workload: none.yaml}]}\n").find("none.yaml") !=
        std::string::npos);
  CHECK(message("search: {objective: gpus, workloads: [" + one + "]}\n").find("without limits") !=
        std::string::npos);
  CHECK(message("search: {objective: latency, workloads: [{workload: {generatr: {}}}]}\n")
            .find("search.workloads[0].workload.generatr") != std::string::npos);
  for (const char* bad : {"[{name: x}]", "[3]", "[{workload: [1]}]"})
    CHECK(message("search: {objective: latency, workloads: " + std::string(bad) + "}\n")
              .find("search.workloads[0]") != std::string::npos);
  // The document's own limits are not a workload's; a file's mistakes are the file's.
  const std::string own =
      message("slo: {ttft_mss: 5}\nsearch: {objective: latency, workloads: [" + one + "]}\n");
  CHECK(own.find("slo.ttft_mss") != std::string::npos);
  CHECK(own.find("workloads[0].slo") == std::string::npos);
  folder.write("twice.yaml", "workload: " + load(9, 1, 9, 9) + "\nworkload: " + load(9, 1, 9, 9) + "\n");
  CHECK(message("search: {objective: latency, workloads: [{workload: twice.yaml}]}\n").find("twice.yaml") !=
        std::string::npos);
}

}  // namespace
}  // namespace orrery
