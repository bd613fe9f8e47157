// The planner: what it rejects and why, that its answer is exhaustive search's, that a search that was
// stopped ends as if it had not been.
#include <algorithm>

#include "base/json.h"
#include "catch.h"
#include "plan/recommendation.h"
#include "plan_spaces.h"
#include "sim/costed/run.h"

using namespace orrery;
using plan_test::easy_slo;
using plan_test::scenario_text;
using plan_test::searched;
using plan_test::space_of;

namespace {

using Folder = test::TempFolder;

std::string answer(const PlanSpace& space, const PlanSearch& search) {
  const RecommendationInput input{&space, &search, "orrery plan", "test"};
  return canonical_json(recommendation_json(input)) + candidates_csv(input) + recommendation_markdown(input);
}

}  // namespace

TEST_CASE("every combination is there once, in order, or has its reason") {
  const Folder folder;
  const PlanSpace space =
      space_of(folder, scenario_text(easy_slo) +
                           "search:\n  objective: gpus\n  owned: {h200: 4, l40s: 8}\n"
                           "  finalists: 2\n  draws: 2\n"
                           "  vary:\n    hardware: [h200, l40s, h100]\n    parallel.tp: [1, 3, 8]\n");
  const PlanSearch search = searched(space);
  const auto& all = search.candidates.all;
  REQUIRE(all.size() == 9);
  CHECK(all[0].label() == "hardware h200, parallel.tp 1");
  CHECK(all[1].label() == "hardware h200, parallel.tp 3");
  CHECK(all[3].label() == "hardware l40s, parallel.tp 1");
  CHECK(all[0].rejected == RejectedBy::nothing);
  CHECK(all[1].rejected == RejectedBy::configuration);  // 32 heads over 3
  CHECK(all[1].reason.find("heads") != std::string::npos);
  CHECK(all[2].rejected == RejectedBy::owned);
  CHECK(all[2].reason == "takes 8 h200; `search.owned` has 4");
  CHECK(all[6].rejected == RejectedBy::owned);  // none of that part
  CHECK(search.finalists.size() + search.left.size() == search.candidates.feasible());
}

TEST_CASE("the choice is that of exhaustive search") {
  const Folder folder;
  for (const char* objective : {"cost", "throughput", "latency"}) {
    const PlanSpace space =
        space_of(folder, scenario_text(easy_slo) + "search:\n  objective: " + objective +
                             "\n  prices: {h200: 4, h100: 2.5, h20: 1.2}\n  finalists: 2\n  draws: 2\n"
                             "  vary:\n    hardware: [h20, h100, h200]\n    parallel.tp: [1, 2]\n"
                             "    engine_args.max_num_seqs: [16, 256]\n");
    const PlanSearch search = searched(space);
    REQUIRE(has_choice(search));
    // Twelve candidates and two finalists: rounds were made, and somebody left before the last one.
    CHECK(std::any_of(search.left.begin(), search.left.end(),
                      [&](const PlanEntry& e) { return e.requests < search.requests; }));
    for (const Candidate& candidate : search.candidates.all) {
      if (candidate.scenario == nullptr) continue;
      auto run = run_scenario(*candidate.scenario);
      REQUIRE(run.ok());
      const PlanScore score = score_of(space, *candidate.scenario, *run);
      INFO(objective << ": " << candidate.label());
      CHECK_FALSE(better(score, search.finalists.front().entry.score));
    }
  }
}

TEST_CASE("a bound rejects only what misses the SLO when it is run") {
  const Folder folder;
  // Limits about the time of a lone token, and of a lone prompt.
  std::size_t rejected = 0;
  for (const char* limits : {"tpot_ms: 3", "tpot_ms: 5", "ttft_ms: 12", "ttft_ms: 30", "ttft_ms: 60"}) {
    const PlanSpace space =
        space_of(folder, scenario_text("slo: {" + std::string(limits) + ", percentile: 90}\n") +
                             "search:\n  objective: latency\n  finalists: 1\n  draws: 2\n"
                             "  vary:\n    hardware: [h20, h100, h200, mi300x]\n    parallel.tp: [1, 2]\n");
    SharedRequests requests;
    auto list = list_candidates(space, 1, requests);
    REQUIRE(list.ok());
    for (const Candidate& candidate : list->all) {
      if (candidate.rejected != RejectedBy::bound) continue;
      ++rejected;
      auto scenario =
          load_scenario(space.file, {.overrides = {}, .trace = "", .document = candidate.document});
      REQUIRE(scenario.ok());
      auto run = run_scenario(*scenario);
      REQUIRE(run.ok());
      INFO(limits << ": " << candidate.label() << ": " << candidate.reason);
      CHECK_FALSE(score_of(space, *scenario, *run).meets);
      // The time that is said is beyond the limit (but for its last figure).
      const std::string before = "takes at least ";
      const std::size_t said = candidate.reason.find(before);
      REQUIRE(said != std::string::npos);
      CHECK(std::stod(candidate.reason.substr(said + before.size())) >=
            std::stod(std::string(limits).substr(9)) - 0.05);
    }
  }
  CHECK(rejected > 8);
  CHECK(rejected < 40);
}

TEST_CASE("a bound allows for prompts that are cheaper in chunks, and for few tokens that come at once") {
  const Folder folder;
  const auto text = [](const std::string& input, const std::string& output, const std::string& slo) {
    return "deployment: {hardware: h200, model: qwen3-8b, engine: sglang-0.5, replicas: 2,\n"
           "             engine_args: {chunked_prefill_size: 2048}}\n"
           "workload:\n  generator:\n    requests: 6\n    arrivals: {process: poisson, rate: 0.1}\n"
           "    input: {distribution: fixed, value: " +
           input +
           "}\n"
           "    output: {distribution: fixed, value: " +
           output + "}\n" + slo +
           "search: {objective: latency, finalists: 1, draws: 2, vary: {hardware: [h200, l40s]}}\n";
  };
  for (const char* output : {"2", "60"}) {
    const PlanSpace free = space_of(folder, text("32000", output, ""));
    SharedRequests requests;
    auto list = list_candidates(free, 1, requests);
    REQUIRE(list.ok());
    for (const Candidate& candidate : list->all) {
      auto run = run_scenario(*candidate.scenario);
      REQUIRE(run.ok());
      // Limits that it meets by a hair.
      const std::string limits = "slo: {ttft_ms: " + std::to_string(double(run->ttft.max) * 1.0001e-6) +
                                 ", tpot_ms: " + std::to_string(double(run->tpot.max) * 1.0001e-6) +
                                 ", percentile: 100}\n";
      const PlanSpace bounded = space_of(folder, text("32000", output, limits));
      auto again = list_candidates(bounded, 1, requests);
      REQUIRE(again.ok());
      INFO(candidate.label() << ": " << again->all[candidate.index].reason);
      CHECK(again->all[candidate.index].rejected == RejectedBy::nothing);
    }
  }
}

TEST_CASE("who answers nothing is last, and costs nothing only because of it") {
  PlanScore answered, silent;
  answered.requests_per_s = 2;
  answered.objective = 5;
  CHECK(better(answered, silent));
  CHECK_FALSE(better(silent, answered));
  // Without an SLO: one instance of one sequence and clients that do not wait leave the first one silent.
  const Folder folder;
  const PlanSpace space =
      space_of(folder,
               "deployment: {hardware: l40s, model: qwen3-8b, engine: vllm-0.24, kernels: roofline,\n"
               "  engine_args: {max_num_seqs: 1}}\n"
               "workload:\n  client: {timeout_s: 1}\n  generator:\n    requests: 200\n"
               "    arrivals: {process: poisson, rate: 60}\n    input: {distribution: fixed, value: 6000}\n"
               "    output: {distribution: fixed, value: 60}\n"
               "search:\n  objective: cost\n  prices: {l40s: 1, h200: 3}\n  finalists: 2\n  draws: 2\n"
               "  vary: {hardware: [l40s, h200]}\n");
  const PlanSearch search = searched(space);
  REQUIRE(search.finalists.size() == 2);
  CHECK(search.candidates.all[search.finalists.front().entry.candidate].parts.front() == "h200");
}

TEST_CASE("what arrives in the warm-up counts neither for a bound nor as part of a round") {
  const Folder folder;
  // Prompts beyond any TTFT limit here, all of them in the warm-up; then short ones.
  std::string trace;
  for (int i = 0; i < 400; ++i) {
    trace += "{\"timestamp\": " + std::to_string(i * 100) +
             ", \"input_length\": " + (i < 100 ? "20000" : "200") + ", \"output_length\": 4}\n";
  }
  folder.write("trace.jsonl", trace);
  const PlanSpace space = space_of(
      folder,
      "deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24, kernels: roofline, replicas: 16}\n"
      "workload: {trace: trace.jsonl, warmup_s: 30}\nslo: {ttft_ms: 200, percentile: 90}\n"
      "search:\n  objective: latency\n  finalists: 1\n  draws: 2\n"
      "  vary: {engine_args.max_num_seqs: [1, 2, 64, 128]}\n");
  const PlanSearch search = searched(space);
  CHECK(search.candidates.feasible() == 4);
  CHECK(has_choice(search));
  // Not even a half has 64 requests that are measured.
  for (const PlanEntry& entry : search.left) CHECK(entry.requests == 400);
}

TEST_CASE("what turns out only when it runs is a reason") {
  const Folder folder;
  folder.write("trace.jsonl",
               "{\"timestamp\": 0, \"input_length\": 200, \"output_length\": 4, \"images\": [{\"width\": "
               "640, \"height\": 480}]}\n");
  const std::string rest =
      "engine: vllm-0.24, kernels: roofline}\nworkload: {trace: trace.jsonl}\n"
      "search: {objective: latency, finalists: 1, draws: 2, vary: {model: [qwen3-8b";
  const std::string start = "deployment: {hardware: h200, model: qwen3-8b, ";
  const PlanSpace one_sees = space_of(folder, start + rest + ", qwen2.5-vl-7b]}}\n");
  const PlanSearch search = searched(one_sees);
  CHECK(has_choice(search));
  CHECK(search.candidates.all[0].rejected == RejectedBy::configuration);
  CHECK(search.candidates.all[0].reason.find("trace.jsonl:1") != std::string::npos);
  const PlanSpace blind = space_of(folder, start + rest + ", qwen3-4b]}}\n");
  const PlanSearch none = searched(blind);
  CHECK(none.finalists.empty());
  CHECK(no_deployment({&blind, &none, "", ""}).kind == ErrorKind::infeasible);
}

TEST_CASE("candidates of one part and set of kernels share its tables") {
  const Folder folder;
  std::string text = scenario_text("");
  text.replace(text.find(", kernels: roofline"), 19, "");
  const PlanSpace space =
      space_of(folder, text + "search: {objective: latency, vary: {engine_args.max_num_seqs: [8, 16]}}\n");
  SharedRequests requests;
  auto list = list_candidates(space, 1, requests);
  REQUIRE(list.ok());
  const auto tables = [&](std::size_t i) { return list->all[i].scenario->pool.instance.kernels; };
  REQUIRE(tables(0) != nullptr);
  CHECK(tables(0) == tables(1));
}

TEST_CASE("as few instances as meet the SLO") {
  const Folder folder;
  const PlanSpace space =
      space_of(folder, scenario_text("slo: {ttft_ms: 150, percentile: 95}\n") +
                           "search:\n  objective: gpus\n  replicas: {up_to: 16}\n  draws: 2\n"
                           "  vary:\n    hardware: [l40s]\n    engine_args.max_num_seqs: [4]\n");
  PlanSearch search = searched(space);
  REQUIRE(has_choice(search));
  const PlanScore& choice = search.finalists.front().entry.score;
  CHECK(choice.gpus == choice.replicas);
  CHECK(choice.replicas > 1);
  const Scenario& scenario = *search.candidates.all[0].scenario;
  auto one_less = run_scenario(with_replicas(scenario, choice.replicas - 1));
  REQUIRE(one_less.ok());
  CHECK_FALSE(score_of(space, scenario, *one_less).meets);
  // Said where draws of the prices turn it over.
  const RecommendationInput input{&space, &search, "", ""};
  search.finalists.front().meets_probability = 1;
  CHECK(recommendation_markdown(input).find("narrowly") == std::string::npos);
  search.finalists.front().meets_probability = 0.5;
  CHECK(recommendation_markdown(input).find("narrowly, in 50.0 % of the draws") != std::string::npos);
}

TEST_CASE("the same bytes for any number of threads, and after a stop") {
  const Folder folder;
  const PlanSpace space =
      space_of(folder, scenario_text(easy_slo) +
                           "search:\n  objective: latency\n  finalists: 2\n  draws: 2\n"
                           "  vary:\n    hardware: [h100, h200]\n    parallel.tp: [1, 2]\n"
                           "    engine_args.max_num_seqs: [8, 64]\n");
  const PlanSearch whole = searched(space);
  SearchOptions threads;
  threads.threads = 3;
  CHECK(answer(space, searched(space, threads)) == answer(space, whole));

  const std::string store = folder.file("plan.sqlite");
  for (const std::uint64_t stop_after : {1u, 5u, 12u}) {
    SearchOptions stopped;
    stopped.store = store;
    std::uint64_t asked = 0;
    std::uint64_t done = 0;
    stopped.progress = [&](std::uint64_t, std::uint64_t, const char*) { ++done; };
    stopped.keep_going = [&] { return ++asked > 0 && done < stop_after; };
    auto cut = search_plans(space, stopped);
    REQUIRE_FALSE(cut.ok());
    CHECK(cut.errors().front().kind == ErrorKind::interrupted);
    SearchOptions again;
    again.store = store;
    again.start = StoreStart::resume;
    const PlanSearch resumed = searched(space, again);
    CHECK(answer(space, resumed) == answer(space, whole));
    CHECK(resumed.reused >= stop_after);
    CHECK(resumed.runs < whole.runs);
  }
  SearchOptions other;
  other.store = store;
  other.start = StoreStart::resume;
  other.version = "another";
  auto refused = search_plans(space, other);
  REQUIRE_FALSE(refused.ok());
  CHECK(refused.errors().front().message.find("another space") != std::string::npos);
}

TEST_CASE("nobody meets it: the nearest, and what to relax") {
  const Folder folder;
  const PlanSpace space =
      space_of(folder, scenario_text("slo: {ttft_ms: 60, percentile: 99}\n") +
                           "search:\n  objective: gpus\n  draws: 2\n  vary: {hardware: [h20, l40s]}\n");
  const PlanSearch search = searched(space);
  REQUIRE_FALSE(has_choice(search));
  const Error error = no_deployment({&space, &search, "", ""});
  CHECK(error.kind == ErrorKind::no_deployment);
  if (!search.finalists.empty()) CHECK(error.message.find("Relax slo.ttft_ms") != std::string::npos);
}

TEST_CASE("nothing fits: the nearest, how much it lacks, and what lets it in") {
  const Folder folder;
  const auto message = [&](const std::string& model, const std::string& vary) {
    std::string text = scenario_text(easy_slo);
    text.replace(text.find("qwen3-8b"), 8, model);
    const PlanSpace space =
        space_of(folder, text + "search:\n  objective: gpus\n  draws: 2\n  vary: {" + vary + "}\n");
    const PlanSearch search = searched(space);
    const Error error = no_deployment({&space, &search, "", ""});
    CHECK(error.kind == ErrorKind::infeasible);
    return error.message;
  };
  // 32 billion parameters in bf16 on 48 GB: on two cards as little as on one, but less is lacking.
  const std::string memory = message("qwen3-32b",
                                     "hardware: [l40s], parallel.tp: [1], kv_cache_dtype: [auto, fp8],"
                                     " engine_args.gpu_memory_utilization: [0.8, 0.9]");
  CHECK(memory.find("The nearest is") != std::string::npos);
  CHECK(memory.find("gpu_memory_utilization 0.9 (") != std::string::npos);
  CHECK(memory.find("GiB a GPU more") != std::string::npos);
  // 32 heads: neither divides them; three is refused for one thing less than five, which also leaves the KV
  // heads over.
  const std::string widths = message("qwen3-8b", "parallel.tp: [5, 3]");
  CHECK(widths.find("The nearest is parallel.tp 3, refused for 3 reasons") != std::string::npos);
}

TEST_CASE("bad spaces are refused with their place") {
  const Folder folder;
  const auto message = [&](const std::string& search) {
    auto space = load_space(folder.write("bad.yaml", scenario_text(easy_slo) + search));
    return space.ok() ? std::string("accepted") : to_string(space.errors());
  };
  CHECK(message("").find("search") != std::string::npos);
  CHECK(message("search: {objective: gpu}\n").find("did you mean") != std::string::npos);
  CHECK(message("search: {objective: gpus, vary: {hardware: []}}\n").find("empty list") != std::string::npos);
  CHECK(message("search: {objective: gpus, vary: {hardware: h200}}\n").find("list of values") !=
        std::string::npos);
  CHECK(message("search: {objective: gpus, vari: {hardware: [h200]}}\n").find("search.vari") !=
        std::string::npos);
  CHECK(message("search: {objective: gpus, vary: {hardware: [h200, h200]}}\n").find("twice") !=
        std::string::npos);
  CHECK(message("search: {objective: gpus, vary: {parallel.tp: [1], parallel: [{tp: 2}]}}\n")
            .find("vary one of them") != std::string::npos);
  for (const char* names : {"owned: {h2000: 8}", "prices: {h2000: 2}"}) {
    const PlanSpace typo = space_of(folder, scenario_text(easy_slo) + "search: {objective: gpus, " + names +
                                                ", vary: {hardware: [h200]}}\n");
    const auto refused = search_plans(typo, {});
    REQUIRE_FALSE(refused.ok());
    CHECK(to_string(refused.errors()).find("did you mean") != std::string::npos);
  }
  const PlanSpace unknown =
      space_of(folder, scenario_text(easy_slo) + "search: {objective: gpus, vary: {hardwear: [h200]}}\n");
  const auto search = search_plans(unknown, {});
  REQUIRE_FALSE(search.ok());
  CHECK(to_string(search.errors()).find("hardwear") != std::string::npos);
  const PlanSpace mistaken = space_of(folder, scenario_text(easy_slo) +
                                                  "overrides: {op_scale: {gem: 2}}\n"
                                                  "search: {objective: gpus, vary: {parallel.tp: [1, 3]}}\n");
  const auto outside = search_plans(mistaken, {});
  REQUIRE_FALSE(outside.ok());
  CHECK(outside.errors().front().key == "overrides.op_scale.gem");
  const PlanSpace unpriced =
      space_of(folder, scenario_text(easy_slo) + "search: {objective: cost, vary: {hardware: [h200]}}\n");
  const auto no_price = search_plans(unpriced, {});
  REQUIRE_FALSE(no_price.ok());
  CHECK(no_price.errors().front().key == "search.prices");
}
