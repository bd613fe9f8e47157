// How the planner searches: bounds that never rule out the best, races that drop only who is worse by more
// than chance, rates that are bracketed, and what is said beside the choice.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <thread>

#include "base/random.h"
#include "catch.h"
#include "plan/bounded_space.h"
#include "plan/doubt.h"
#include "plan/load_change.h"
#include "plan/racing.h"
#include "plan/rate_search.h"
#include "plan/recommendation.h"
#include "plan/sensitivity.h"
#include "plan_spaces.h"

using namespace orrery;
using plan_test::easy_slo;
using plan_test::scenario_text;
using plan_test::searched;
using plan_test::space_of;

namespace {

using Folder = test::TempFolder;

RequestBlocks blocks_of(double e2e_ms, double met, std::uint64_t noise) {
  RequestBlocks blocks(block_count);
  RandomStream stream(5, RandomPurpose::property_test, noise);
  for (RequestBlock& b : blocks) {
    b = {.requests = 50, .met = met, .answered = 50, .tokens = 5000, .e2e_ms = 50 * e2e_ms, .busy_s = 10};
    if (noise > 0) b.e2e_ms *= 0.8 + 0.4 * stream.uniform();
  }
  return blocks;
}

PlanScore score_with(double e2e_ms, double met = 50, std::uint64_t noise = 0) {
  PlanScore score;
  score.gpus = 1;
  score.has_slo = score.meets = true;
  score.blocks = blocks_of(e2e_ms, met, noise);
  return score;
}

}  // namespace

TEST_CASE("pricers of one graph share their tables and say what they would say alone") {
  const Folder folder;
  const PlanSpace space =
      space_of(folder, scenario_text("") +
                           "search:\n  objective: latency\n  vary:\n"
                           "    parallel.tp: [1, 2]\n    engine_args.max_num_seqs: [8, 300]\n");
  SharedRequests requests;
  auto list = list_candidates(space, 1, requests);
  REQUIRE(list.ok());
  PriceTableShelf shelf;
  std::vector<StepPricer> shared;
  for (const Candidate& candidate : list->all) {
    const PriceTableScope scope(shelf, "one name for all of them");
    shared.push_back(std::move(StepPricer::create(candidate.scenario->pool.instance)).value());
  }
  CHECK(shelf.shared() == 2);  // the second of each tp
  {                            // Threads that fill the same places at once.
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < shared.size(); ++i) {
      threads.emplace_back([&pricer = shared[i]] {
        for (std::int32_t n = 1; n < 3000; n += 7)
          (void)pricer.summarize({.prefill = {}, .decode_sequences = n, .decode_context_tokens = n});
      });
    }
  }
  for (std::size_t i = 0; i < shared.size(); ++i) {
    const StepPricer alone = std::move(StepPricer::create(list->all[i].scenario->pool.instance)).value();
    for (const std::int32_t tokens : {1, 3, 100, 2048, 8192, 9000}) {
      const PrefillChunk chunk{.new_tokens = tokens, .context = 10};
      const StepShape shape{
          .prefill = std::span(&chunk, 1), .decode_sequences = 5, .decode_context_tokens = 4000};
      CHECK(shared[i].price(shape).busy == alone.price(shape).busy);
    }
  }
}

// Spaces are drawn; whatever is in them, the search's choice is exhaustive search's, and no candidate that
// meets the SLO is better than its bound.
TEST_CASE("the best is never ruled out") {
  const Folder folder;
  std::uint64_t ruled_out = 0, known = 0, simulated = 0, of_all = 0;
  for (std::uint64_t number = 0; number < 6; ++number) {
    RandomStream draw(17, RandomPurpose::property_test, number);
    const char* objectives[] = {"cost", "gpus", "throughput", "latency", "goodput", "cost"};
    const bool counted = number % 2 == 0;
    std::string text =
        scenario_text("slo: {ttft_ms: " + std::to_string(150 + draw.below(400)) +
                          ", tpot_ms: " + std::to_string(9 + draw.below(12)) + ", percentile: 90}\n",
                      200);
    text.replace(text.find("rate: 8"), 7, "rate: " + std::to_string(10 + draw.below(60)));
    text += std::string("search:\n  objective: ") + objectives[number] + "\n  finalists: 1\n  draws: 2\n" +
            (counted ? "  replicas: {up_to: 6}\n" : "") +
            "  prices: {h200: 4, h100: 2.5, h20: 1.2, l40s: 0.9}\n  vary:\n"
            "    hardware: [h20, h100, h200, l40s]\n    parallel.tp: [1, 2, 4]\n"
            "    engine_args.max_num_seqs: [" +
            std::to_string(4 + draw.below(12)) + ", 128]\n";
    const PlanSpace space = space_of(folder, text);
    SearchOptions all;
    all.exhaustive = true;
    const PlanSearch exhaustive = searched(space, all), search = searched(space);
    for (const Candidate& c : exhaustive.candidates.all) CHECK(c.rejected != RejectedBy::bound);
    INFO(text);
    REQUIRE(has_choice(exhaustive) == has_choice(search));
    if (!has_choice(search)) continue;
    // Without error bars' help: nothing but the nominal run decides.
    const PlanScore &a = exhaustive.finalists.front().entry.score, &b = search.finalists.front().entry.score;
    CHECK(a.objective == b.objective);
    CHECK(a.mean_e2e_ms == b.mean_e2e_ms);
    simulated += search.saved.simulated;
    of_all += exhaustive.saved.simulated;
    ruled_out += search.saved.by_bounds;
    BoundedSpace bounded(space, {});
    REQUIRE(bounded.make().ok());
    const auto check = [&](const PlanEntry& entry) {
      const ObjectiveBound& bound = bounded.bound(entry.candidate);
      if (!entry.score.meets) return;
      CHECK(bounded.list().all[entry.candidate].rejected != RejectedBy::bound);
      if (!bound.known) return;
      ++known;
      INFO(exhaustive.candidates.all[entry.candidate].label());
      CHECK(bound.objective <= entry.score.objective);
      CHECK(bound.instances <= entry.score.replicas);
    };
    for (const PlanEntry& entry : exhaustive.left) check(entry);
    for (const Finalist& finalist : exhaustive.finalists) check(finalist.entry);
  }
  CHECK(known > 30);
  CHECK(ruled_out > 10);
  CHECK(simulated < of_all);
}

TEST_CASE("a candidate leaves when it is worse by more than chance, on the same requests") {
  PlanSpace space;
  space.objective = PlanObjective::latency;
  const auto leaves = [&](const PlanScore& other, const PlanScore& leader = score_with(100)) -> bool {
    return significantly_worse(space, {&leader, &other}, 1, 3, {0.95})[1];
  };
  CHECK_FALSE(leaves(score_with(100)));  // equals stay
  CHECK(leaves(score_with(101)));        // a difference that every block shows
  // One per cent amid noise of its own.
  const PlanScore noisy = score_with(101, 50, 1), other = score_with(100, 50, 2);
  CHECK_FALSE(leaves(noisy, other));
  // The same noise in both: pairs cancel it.
  CHECK(leaves(score_with(101, 50, 2), other));
  CHECK(leaves(score_with(150, 50, 1), other));
  // So many stay whatever is drawn.
  const PlanScore leader = score_with(100), worse = score_with(200);
  CHECK_FALSE(significantly_worse(space, {&leader, &worse}, 2, 3, {0.95})[1]);
  // It misses the SLO in every block; or in some.
  PlanScore late = score_with(50, 40);
  late.meets = false;
  CHECK(leaves(late));
  for (std::size_t b = 0; b < block_count; b += 2) late.blocks[b].met = 50;
  for (std::size_t b = 1; b < block_count; b += 2) late.blocks[b].met = 44;
  CHECK_FALSE(leaves(late));
  // One instance more than the leader, and one less nearly does.
  space.objective = PlanObjective::gpus;
  space.most_replicas = 4;
  PlanScore two = score_with(50), one = score_with(100);
  two.replicas = two.gpus = 2;
  CHECK(leaves(two, one));
  two.fewer = late.blocks;
  CHECK_FALSE(leaves(two, one));
}

TEST_CASE("a rate is bracketed whatever the answers are") {
  const auto bracket = [](double guess, const std::function<bool(double)>& meets) {
    auto found = bracket_rate(guess, [&](double rate) -> Result<bool> { return meets(rate); });
    REQUIRE(found.ok());
    CHECK(found->probes <= 1 + rate_steps + 9);
    return *found;
  };
  for (const double limit : {0.004, 0.9, 1.0, 1.04, 3.7, 900.0}) {
    for (const double guess : {1.0, 1.3, 0.8}) {
      const RateBracket found = bracket(guess, [&](double rate) { return rate <= limit; });
      INFO(limit << " from " << guess);
      REQUIRE(found.found);
      CHECK(found.low <= limit);
      CHECK(found.low * rate_precision >= limit * 0.999);
    }
  }
  CHECK_FALSE(bracket(1, [](double) { return false; }).found);
  CHECK(bracket(1, [](double) { return true; }).high == 0);
  int asked = 0;
  bracket(1, [&](double) { return ++asked % 2 == 0; });
}

TEST_CASE("the highest rate and the goodput as objectives") {
  const Folder folder;
  const auto text = [](const char* objective) {
    return scenario_text("slo: {ttft_ms: 300, tpot_ms: 15, percentile: 90}\n", 100) +
           "search:\n  objective: " + objective + "\n  finalists: 1\n  draws: 2\n" +
           "  vary: {hardware: [h20, h200]}\n";
  };
  const PlanSpace rate = space_of(folder, text("rate"));
  const PlanSearch search = searched(rate);
  REQUIRE(has_choice(search));
  const PlanEntry& choice = search.finalists.front().entry;
  CHECK(search.candidates.all[choice.candidate].parts.front() == "h200");
  CHECK(choice.score.rate_factor > 1.5);
  // A little faster it does not meet it.
  RunOptions options;
  options.rate_factor = choice.score.rate_factor * rate_precision * 1.001;
  const Scenario& scenario = *search.candidates.all[choice.candidate].scenario;
  auto faster = run_scenario(scenario, options);
  REQUIRE(faster.ok());
  CHECK_FALSE(score_of(rate, scenario, *faster).meets);
  const PlanSearch goodput = searched(space_of(folder, text("goodput")));
  CHECK(goodput.finalists.front().entry.score.objective < 0);  // within; as people read it, it is positive
  const PlanSpace wanted = space_of(folder, text("goodput"));
  const Json said = recommendation_json({&wanted, &goodput, "", ""});
  CHECK(said["choice"]["objective"] == -goodput.finalists.front().entry.score.objective);
  CHECK(recommendation_json({&rate, &search, "", ""})["choice"]["objective"] == -choice.score.objective);
}

TEST_CASE("what if: more traffic, longer prompts, fewer hits, one lost") {
  const Folder folder;
  const PlanSpace space = space_of(
      folder, scenario_text("slo: {ttft_ms: 150, percentile: 95}\n", 120) +
                  "search:\n  objective: gpus\n  replicas: {up_to: 16}\n  draws: 2\n  finalists: 2\n"
                  "  what_if: {traffic: [2, 1], prompts: [4], hit_rate: [0.5], lost: [instance, node]}\n"
                  "  curves: {rates: [0.5, 2], instances: [1, 8]}\n"
                  "  vary:\n    hardware: [l40s]\n    engine_args.max_num_seqs: [4, 5]\n");
  const PlanSearch search = searched(space);
  REQUIRE(has_choice(search));
  const PlanScore& choice = search.finalists.front().entry.score;
  const auto& cases = search.around.cases;
  REQUIRE(cases.size() == 6);
  const WhatIfPlan &twice = cases[0].plans[0], &same = cases[1].plans[0], &longer = cases[2].plans[0];
  CHECK(same.score.attainment == choice.attainment);  // nothing changed
  CHECK(twice.score.attainment < choice.attainment);
  CHECK(twice.needs > choice.replicas);
  CHECK(longer.score.attainment < choice.attainment);
  CHECK_FALSE(cases[3].cannot.empty());  // no prefixes here
  CHECK(cases[4].plans[0].score.replicas == choice.replicas - 1);
  CHECK_FALSE(cases[4].plans[0].score.meets);  // as few as meet it, less one
  CHECK(cases[4].plans[0].needs == choice.replicas + 1);
  const auto& curve = search.around.curve;
  REQUIRE(curve.size() == 4);
  CHECK(curve[0].score.attainment >= curve[1].score.attainment);
  CHECK(curve[2].score.attainment < curve[3].score.attainment);
  const RecommendationInput input{&space, &search, "", ""};
  const std::string json = canonical_json(recommendation_json(input)), text = recommendation_markdown(input);
  for (const char* key : {"\"what_if\"", "\"curves\"", "\"instances_needed\"", "\"savings\""})
    CHECK(json.find(key) != std::string::npos);
  CHECK(text.find("Under other circumstances") != std::string::npos);
  // Growth and peak are part of the load from the start.
  PlanSpace grown = space;
  grown.growth = 1.5;
  grown.peak = 2;
  CHECK(searched(grown).finalists.front().entry.score.replicas > choice.replicas);
}

TEST_CASE("instances that something else counts, or that are to spare") {
  const Folder folder;
  const auto around = [&](const std::string& deployment, const std::string& more) {
    std::string text = scenario_text("slo: {ttft_ms: 1000, percentile: 95}\n", 40) + more +
                       "search:\n  objective: latency\n  draws: 2\n  finalists: 1\n"
                       "  what_if: {lost: [instance]}\n  curves: {instances: [1, 9]}\n";
    text.replace(text.find("kernels:"), 0, deployment + ", ");
    const PlanSpace space = space_of(folder, text);
    const PlanSearch search = searched(space);
    const RecommendationInput input{&space, &search, "", ""};
    CHECK(recommendation_markdown(input).find("Under other circumstances") != std::string::npos);
    return search.around;
  };
  // Faults name instances: fewer of them would not have the one that fails.
  const Sensitivity faults =
      around("replicas: 3", "faults: [{at_s: 1, for_s: 1, kind: gpu, target: {replica: 2}}]\n");
  CHECK(faults.cases[0].plans[0].cannot.find("faults") != std::string::npos);
  CHECK(faults.curve[0].cannot.find("faults") != std::string::npos);
  CHECK(curves_csv(faults).find("\ninstances,") == std::string::npos);
  const Sensitivity scaled = around("autoscale: {min: 1, max: 3, target: 8}", "");
  CHECK(scaled.cases[0].plans[0].cannot.find("autoscale") != std::string::npos);
  // A topology has room for fewer; for more than it has GPUs nobody looked.
  const Sensitivity placed = around("replicas: 8, topology: {preset: hopper-8}", "");
  CHECK(placed.cases[0].plans[0].score.replicas == 7);
  CHECK(placed.curve[1].cannot.find("topology") != std::string::npos);
  // With one to spare no more are needed.
  const Sensitivity spare = around("replicas: 4", "");
  CHECK(spare.cases[0].plans[0].score.meets);
  CHECK(spare.cases[0].plans[0].needs == 4);
  CHECK(spare.curve[0].score.replicas == 1);
}

TEST_CASE("a closed loop has no rate, and a choice is written at the rate that it was run at") {
  const Folder folder;
  const std::string slo = "slo: {ttft_ms: 300, tpot_ms: 15, percentile: 90}\n";
  const std::string closed =
      "search: {objective: rate, growth: 2, peak: 3, what_if: {traffic: [2]}, curves: {rates: [2]}}\n";
  std::string text = scenario_text(slo) + closed;
  text.replace(text.find("slo:"), 0, "  closed_loop: {concurrency: 8}\n");
  const auto refused = load_space(folder.write("closed.yaml", text));
  REQUIRE_FALSE(refused.ok());
  for (const char* key : {"growth", "peak", "what_if.traffic", "curves.rates", "objective"})
    CHECK(to_string(refused.errors()).find(std::string("search.") + key) != std::string::npos);
  std::string limited = scenario_text(slo, 100);
  limited.replace(limited.find("slo:"), 0, "  limit: {duration_s: 6}\n");
  const PlanSpace space =
      space_of(folder, limited + "search: {objective: latency, growth: 3, finalists: 1, draws: 2}\n");
  const PlanSearch search = searched(space);
  const std::string out = folder.file("out");
  REQUIRE(write_recommendation(out, {&space, &search, "", ""}).ok());
  auto written = load_scenario(out + "/choice.yaml", {});
  REQUIRE(written.ok());
  auto run = run_scenario(*written);
  REQUIRE(run.ok());
  CHECK(score_of(space, *written, *run).mean_e2e_ms == search.finalists.front().entry.score.mean_e2e_ms);
}

TEST_CASE("changed loads keep what they do not change") {
  auto requests = std::make_shared<std::vector<TraceRequest>>();
  for (std::uint64_t i = 0; i < 200; ++i) {
    TraceRequest r;
    r.index = i;
    r.prompt_tokens = 64;
    r.output_tokens = 5;
    r.hash_block_size = 16;
    r.hash_ids = {1, 2, 3, 100 + i};
    requests->push_back(r);
  }
  auto longer = with_longer_prompts(requests, 4);
  REQUIRE(longer.ok());
  const auto& a = (*longer->requests)[0].hash_ids;
  const auto& b = (*longer->requests)[1].hash_ids;
  REQUIRE(a.size() == 16);
  CHECK((*longer->requests)[0].prompt_tokens == 256);
  CHECK(std::equal(a.begin(), a.begin() + 12, b.begin()));  // three of four blocks were shared
  CHECK(a[12] != b[12]);
  auto sorted = a;
  std::sort(sorted.begin(), sorted.end());
  CHECK(std::unique(sorted.begin(), sorted.end()) == sorted.end());
  auto fewer = with_fewer_hits(requests, 0.5, 3);
  REQUIRE(fewer.ok());
  const auto sharing = std::count_if(fewer->requests->begin(), fewer->requests->end(),
                                     [](const TraceRequest& r) { return r.hash_ids[0] == 1; });
  CHECK(sharing > 70);
  CHECK(sharing < 130);
}

TEST_CASE("what to measure is what goes with the distance of the first two") {
  constexpr std::size_t draws = 16;
  PriceUncertainty one;
  one.op.fill(1);
  one.host = 1;
  PlanSearch search;
  search.finalists.resize(2);
  for (std::size_t k = 0; k < draws; ++k) {
    const PriceScales scales = draw_scales(one, 9, k + 1);
    PlanScore first, second;
    first.meets = second.meets = true;
    first.objective = 1;
    second.objective = 1 + 0.1 * std::log(scales.host);
    search.finalists[0].draws.push_back(first);
    search.finalists[1].draws.push_back(second);
  }
  const std::vector<DoubtSource> doubts = doubt_of(search, 9, draws);
  REQUIRE_FALSE(doubts.empty());
  CHECK(doubts.front().name == "host");
  CHECK(doubts.front().correlation > 0.999);
  CHECK(least_correlation(draws) == Approx(0.4973).margin(0.01));
}

TEST_CASE("everything that an issue of sizing asks about can be varied") {
  const Folder folder;
  const auto fates = [&](const std::string& deployment, const std::string& vary) {
    const PlanSpace space = space_of(
        folder,
        "deployment: " + deployment +
            "\nworkload:\n  generator:\n    requests: 4\n    arrivals: {process: poisson, rate: 4}\n"
            "    input: {distribution: fixed, value: 200}\n    output: {distribution: fixed, value: 8}\n"
            "search: {objective: latency, finalists: 1, draws: 2, vary: {" +
            vary + "}}\n");
    SharedRequests requests;
    auto list = list_candidates(space, 1, requests);
    if (!list.ok()) return to_string(list.errors());
    std::string out;
    for (const Candidate& c : list->all) out += c.scenario != nullptr ? "y" : "(" + c.reason + ")";
    return out;
  };
  const std::string one = "{hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}";
  CHECK(fates(one, "kv_cache_dtype: [auto, fp8]") == "yy");
  CHECK(fates(one, "parallel: [{tp: 2}, {pp: 2}]") == "yy");
  CHECK(fates("{hardware: h200, model: qwen3-30b-a3b, engine: vllm-0.24, kernels: roofline}",
              "parallel: [{tp: 2}, {tp: 2, ep: 2}, {dp: 2, ep: 2}]") == "yyy");
  CHECK(fates(one, "engine_args.kv_offloading_size: [1, 4]") == "yy");
  CHECK(fates(one,
              "speculation: [{method: eagle, tokens: 1, acceptance: [0.7]}, {method: eagle, tokens: 2, "
              "acceptance: [0.7, 0.5]}]") == "yy");
  CHECK(fates("{hardware: h200, model: deepseek-r1, engine: vllm-0.24, kernels: roofline, parallel: {tp: 8}}",
              "speculation: [{method: mtp, tokens: 1, acceptance: [0.8]}]") == "y");
  CHECK(fates(one, "engine: [vllm-0.24, sglang-0.5, tensorrt-llm-1.2]") == "yyy");
  CHECK(fates(one, "engine_args.max_num_batched_tokens: [1024, 4096]") == "yy");
  // Parts of two kinds, and how many of each.
  const std::string pools =
      "{topology: {preset: hopper-8}, pools: [\n"
      "  {name: p, role: prefill, hardware: h100, model: qwen3-8b, engine: vllm-0.24, kernels: roofline},\n"
      "  {name: d, role: decode, hardware: h20, model: qwen3-8b, engine: vllm-0.24, kernels: roofline}]}";
  CHECK(fates(pools, "\"pools[0].replicas\": [1, 2], \"pools[1].replicas\": [1, 3]") == "yyyy");
  CHECK(fates(pools, "\"pools[1].hardware\": [h20, h100]") == "yy");
  // And what is wrong keeps its reason.
  CHECK(fates(one, "kv_cache_dtype: [auto, fp3]").find("fp3") != std::string::npos);
}
