// Published cases: their files are read strictly, a made-up one is predicted and its errors are what one gets
// by hand, and what cannot be compared says why.
#include "reports/casebook/published_case.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "case_texts.h"
#include "catch.h"
#include "reports/casebook/case_comparison.h"
#include "reports/casebook/published_requests.h"
#include "reports/casebook/scoreboard.h"
#include "sim/costed/run.h"

using namespace orrery;
using namespace orrery::test;

namespace {

const std::string kHead = R"(title: a made-up case
engine: vLLM 9.9
source: {text: nobody, url: "https://example.org", license: none}
assumptions: ["everything"]
)";

// Two requests that never meet, so that a run of each alone is the same.
const std::string kRuns = R"(deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24}
runs:
  - name: two
    data: "made up"
    workload:
      generator:
        requests: 2
        arrivals: {process: fixed, rate: 0.1}
        input: {distribution: fixed, value: 300}
        output: {distribution: fixed, value: 5}
    measured: {ttft_ms.mean: 20, tpot_ms.p50: 4, e2e_ms.max: 1000}
)";

struct Records final : RecordSink {
  void on_request(const RequestRecord& r) override { all.push_back(r); }
  std::vector<RequestRecord> all;
};

CaseOptions fast() {
  CaseOptions options;
  options.runs = 0;
  return options;
}

}  // namespace

TEST_CASE("an error in a case file names file, line, column and key") {
  const std::string metric = case_errors(replaced(kHead + kRuns, "tpot_ms.p50", "tpot_ms.median"));
  INFO(metric);
  CHECK(contains(metric, "bad.yaml:15:"));
  CHECK(contains(metric, "runs[0].measured"));
  CHECK(contains(metric, "unknown metric"));
  CHECK(contains(case_errors(replaced(kHead + kRuns, "e2e_ms.max: 1000", "e2e_ms.max: 0")), "above 0"));
  CHECK(
      contains(case_errors(replaced(kHead + kRuns, "e2e_ms.max: 1000", "e2e_ms.p100: 9")), "unknown metric"));
  CHECK(contains(case_errors(replaced(kHead + kRuns, "engine: vLLM", "enigne: vLLM")), "bad.yaml:2:"));
  CHECK(contains(case_errors(replaced(kHead + kRuns, "    data: \"made up\"\n", "")), "data"));
  CHECK(contains(case_errors(replaced(kHead + kRuns, "assumptions: [\"everything\"]\n", "")), "assumptions"));
  CHECK(contains(case_errors(replaced(kHead + kRuns, "hardware: h200", "hardware: h201")), "did you mean"));
  CHECK(contains(case_errors(kHead + "runs: []\n"), "at least one run"));
  CHECK(contains(case_errors(replaced(kHead + kRuns, "tpot_ms.p50: 4", "kv_cache.blocks: 4")),
                 "run of its own"));
}

TEST_CASE("a made-up case: predictions are the simulator's, errors and verdicts are what one gets by hand") {
  const TempFolder folder;
  const auto loaded = load_published_case(folder.write("made_up.yaml", kHead + kRuns));
  INFO((loaded.ok() ? "" : to_string(loaded.errors())));
  REQUIRE(loaded.ok());
  CHECK(loaded->id == "made_up");
  REQUIRE(loaded->runs.size() == 1);
  Records records;
  RunOptions running;
  running.sink = &records;
  REQUIRE(run_scenario(loaded->runs[0].scenario, running).ok());
  REQUIRE(records.all.size() == 2);
  double ttft[2], tpot[2], e2e[2];
  for (std::size_t i = 0; i < 2; ++i) {
    ttft[i] = records.all[i].ttft.milliseconds();
    e2e[i] = records.all[i].e2e.milliseconds();
    tpot[i] = (e2e[i] - ttft[i]) / 4;
  }

  const auto compared = compare_case(*loaded, fast());
  REQUIRE(compared.ok());
  REQUIRE(compared->runs.size() == 1);
  const ComparedRun& run = compared->runs[0];
  REQUIRE(run.metrics.size() == 3);
  CHECK(run.metrics[0].predicted == Approx((ttft[0] + ttft[1]) / 2));
  CHECK(run.metrics[0].error_percent() == Approx(100 * ((ttft[0] + ttft[1]) / 2 - 20) / 20));
  CHECK(run.metrics[1].predicted == Approx((tpot[0] + tpot[1]) / 2));
  CHECK(run.metrics[1].error_percent() == Approx(100 * ((tpot[0] + tpot[1]) / 2 - 4) / 4));
  CHECK(run.metrics[2].predicted == Approx(std::max(e2e[0], e2e[1])));
  CHECK(run.metrics[2].error_percent() < -90);
  double shares = 0;
  for (const auto& [rung, share] : run.provenance) shares += share;
  CHECK(shares == Approx(1));
  CHECK_FALSE(run.intervals);

  const Json board = scoreboard_json({*compared});
  CHECK(board["cases"].size() == 3);
  CHECK(board["cases"][0]["id"] == "made_up");
  CHECK(board["cases"][0]["published"] == 20);
  CHECK(board["cases"][0]["low"].is_null());
  CHECK(board["cases"][0]["verdict"].is_null());
  CHECK(board["coverage"].is_null());
  CHECK(board["by_part"]["h200"]["rows"] == 3);
  CHECK(board["by_engine"]["vLLM 9.9"]["median_error_percent"].get<double>() ==
        Approx(std::min(run.metrics[0].error_percent(), run.metrics[1].error_percent())));
  for (const std::string& text :
       {scoreboard_text({*compared}), scoreboard_markdown({*compared}), scoreboard_csv({*compared})}) {
    CHECK(contains(text, "made_up"));
    CHECK(contains(text, "e2e_ms.max"));
  }
  CHECK(contains(scoreboard_text({*compared}), "assumed: everything"));
  CHECK(contains(scoreboard_summary({*compared}), "made_up"));
  CHECK(contains(scoreboard_text({*compared}), "measured by others, not used for fitting"));
}

TEST_CASE("a verdict needs a narrow interval") {
  const auto at = [](double low, double predicted, double high, double measured) {
    return verdict({"m", predicted, low, high, measured}, true);
  };
  CHECK(at(80, 100, 120, 119) == "inside");
  CHECK(at(80, 100, 120, 121) == "outside");
  CHECK(at(75, 100, 125, 100) == "inside");  // half-width of exactly a quarter
  CHECK(at(74, 100, 125, 100) == "uninformative");
  CHECK(at(10, 100, 200, 300) == "outside");
  CHECK(verdict({"m", 100, 100, 100, 100}, false).empty());
}

TEST_CASE("with intervals a case has coverage, and the nominal prediction is the same") {
  const TempFolder folder;
  const auto loaded = load_published_case(folder.write("made_up.yaml", kHead + kRuns));
  REQUIRE(loaded.ok());
  CaseOptions options;
  options.runs = 8;
  const auto wide = compare_case(*loaded, options), narrow = compare_case(*loaded, fast());
  REQUIRE(wide.ok());
  REQUIRE(narrow.ok());
  const ComparedMetric& m = wide->runs[0].metrics[1];
  CHECK(m.predicted == narrow->runs[0].metrics[1].predicted);
  CHECK(m.low < m.predicted);
  CHECK(m.high > m.predicted);
  const Json board = scoreboard_json({*wide});
  REQUIRE(board["cases"].size() == scoreboard_json({*narrow})["cases"].size());
  std::size_t scored = 0, inside = 0;
  for (const Json& row : board["cases"]) {
    if (row["low"].is_null() || row["half"] == "fitted") continue;
    ++scored;
    inside += row["low"] <= row["published"] && row["published"] <= row["high"];
  }
  if (scored == 0) {
    CHECK(board["coverage"].is_null());
  } else {
    CHECK(board["coverage"].get<double>() == static_cast<double>(inside) / static_cast<double>(scored));
  }
}

TEST_CASE("recorded requests are replayed one by one where their file is, and else the reason is given") {
  const TempFolder folder;
  // Out of order, as a file that is written when requests end.
  const std::string rows = folder.write("requests.csv",
                                        "id,sent,prompt,output,first,all\n"
                                        "1,1000010.5,300,5,40,80\n"
                                        "0,1000000.5,300,5,20,1000\n"
                                        "\n");
  const std::string columns = R"(    requests: {file: )" + rows +
                              R"(, arrival_s: sent, prompt_tokens: prompt,
               output_tokens: output, ttft_ms: first, e2e_ms: all}
)";
  const auto loaded = load_published_case(folder.write("made_up.yaml", kHead + kRuns + columns));
  INFO((loaded.ok() ? "" : to_string(loaded.errors())));
  REQUIRE(loaded.ok());
  const auto compared = compare_case(*loaded, fast());
  REQUIRE(compared.ok());
  REQUIRE(compared->runs[0].requests.size() == 1);
  const RequestComparison& r = compared->runs[0].requests[0];
  CHECK(r.skipped.empty());
  CHECK(r.requests == 2);
  const auto metric = [&](const std::string& name) {
    const auto found =
        std::find_if(r.metrics.begin(), r.metrics.end(), [&](const auto& m) { return m.name == name; });
    REQUIRE(found != r.metrics.end());
    return *found;
  };
  CHECK(metric("ttft_ms.mean").measured == 30);
  CHECK(metric("ttft_ms.p50").measured == 30);
  CHECK(metric("tpot_ms.mean").measured == (980.0 / 4 + 10) / 2);
  CHECK(metric("e2e_ms.p90").measured == Approx(80 + 0.9 * 920));
  // Requests ten seconds apart are alike; ours are those of the generated workload.
  const double first = compared->runs[0].metrics[0].predicted;
  CHECK(metric("ttft_ms.mean").predicted == Approx(first));
  CHECK(r.ttft_median_abs == Approx((std::abs(first / 20 - 1) + std::abs(first / 40 - 1)) / 2));

  std::filesystem::remove(rows);
  const auto without = compare_case(*loaded, fast());
  REQUIRE(without.ok());
  CHECK(contains(without->runs[0].requests[0].skipped, "requests.csv is not here"));
  CHECK(without->runs[0].metrics.size() == 3);
  CHECK(contains(scoreboard_text({*without}), "requests.csv is not here"));

  const auto bad =
      read_published_requests(folder.write("bad.csv", "sent,prompt\n1,2\n"), *loaded->runs[0].requests);
  REQUIRE_FALSE(bad.ok());
  CHECK(contains(to_string(bad.errors()), "bad.csv:1: output: no such column"));
  const auto worse = read_published_requests(
      folder.write("worse.csv", "sent,prompt,output,first,all\n1,300,5,20,30\n2,300,x,20,30\n"),
      *loaded->runs[0].requests);
  REQUIRE_FALSE(worse.ok());
  CHECK(contains(to_string(worse.errors()), "worse.csv:3: output: expected a number above 0"));
}

TEST_CASE("a deployment that cannot be described is refused with its place, when the file says so") {
  const TempFolder folder;
  const std::string pools =
      replaced(kHead + kRuns, "deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24}",
               "deployment:\n  pools:\n    - {name: p, role: prefill, hardware: h200, model: qwen3-8b, "
               "engine: vllm-0.24}");
  CHECK(contains(case_errors(pools), "needs a decode pool"));
  const auto refused = load_published_case(folder.write("refused.yaml", "refused: needs pools\n" + pools));
  INFO((refused.ok() ? "" : to_string(refused.errors())));
  REQUIRE(refused.ok());
  CHECK(refused->needs == "needs pools");
  CHECK(contains(refused->refusal, "refused.yaml:8:"));
  CHECK(contains(refused->refusal, "deployment.pools"));
  CHECK(refused->hardware == "h200");
  CHECK(refused->runs.empty());
  const auto compared = compare_case(*refused, fast());
  REQUIRE(compared.ok());
  CHECK(contains(scoreboard_text({*compared}), "not compared: needs pools; "));
  // Mistakes elsewhere in such a file are still errors.
  CHECK(contains(case_errors("refused: needs pools\n" + replaced(pools, "tpot_ms.p50", "tpot.p50")),
                 "unknown metric"));

  const auto outdated =
      load_published_case(folder.write("old.yaml", "refused: needs pools\n" + kHead + kRuns));
  REQUIRE(outdated.ok());
  CHECK(outdated->refusal.empty());
  CHECK(outdated->runs.size() == 1);
  const auto runs = compare_case(*outdated, fast());
  REQUIRE(runs.ok());
  CHECK(contains(scoreboard_text({*runs}), "remove that line"));
}

TEST_CASE("the memory plan is compared without a workload") {
  const TempFolder folder;
  const auto loaded = load_published_case(folder.write("kv.yaml", kHead + R"(runs:
  - name: kv
    data: "made up"
    deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24,
                 engine_args: {num_gpu_blocks_override: 1100, max_model_len: 4096}}
    measured: {kv_cache.blocks: 1000}
)"));
  REQUIRE(loaded.ok());
  const auto compared = compare_case(*loaded, fast());
  REQUIRE(compared.ok());
  REQUIRE(compared->runs[0].metrics.size() == 1);
  CHECK(compared->runs[0].metrics[0].predicted == 1100);
  CHECK(compared->runs[0].metrics[0].error_percent() == Approx(10));
}

namespace {

const std::string kSteps = R"(runs:
  - name: wide
    data: "made up"
    deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24}
    step: {prefill: [[2048, 0]], decode: {sequences: 8, context_tokens: 8192}}
    measured: {step.device_ms: 10}
  - name: narrow
    data: "made up"
    deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24, quantization: fp8-tensor}
    step: {prefill: [[2048, 0]], decode: {sequences: 8, context_tokens: 8192}}
pairs:
  - name: bf16 ÷ fp8
    data: "made up"
    of: wide
    to: narrow
    measured: {step.gemm_ms: 1.5, step.device_ms: 1.5}
)";

}  // namespace

TEST_CASE("a step is priced without a workload, and a pair is the ratio of two runs under the same draws") {
  const TempFolder folder;
  const auto loaded = load_published_case(folder.write("steps.yaml", kHead + kSteps));
  INFO((loaded.ok() ? "" : to_string(loaded.errors())));
  REQUIRE(loaded.ok());
  CaseOptions options;
  options.runs = 8;
  const auto compared = compare_case(*loaded, options);
  REQUIRE(compared.ok());
  REQUIRE(compared->runs.size() == 2);  // the run without figures stands in the pair only
  double device[2], gemm[2];
  for (std::size_t i = 0; i < 2; ++i) {
    const auto pricer = StepPricer::create(loaded->runs[i].scenario.pool.instance);
    REQUIRE(pricer.ok());
    const StepBreakdown step = pricer->explain(loaded->runs[i].step->shape());
    device[i] = static_cast<double>(step.device_ns) * 1e-6;
    gemm[i] = 0;
    for (const OpLine& line : step.ops)
      gemm[i] += line.op_class == OpClass::gemm ? static_cast<double>(line.time_ns) * 1e-6 : 0;
  }
  const ComparedRun &step = compared->runs[0], &pair = compared->runs[1];
  REQUIRE(step.metrics.size() == 1);
  CHECK(step.metrics[0].predicted == Approx(device[0]));
  double shares = 0;
  for (const auto& [rung, share] : step.provenance) shares += share;
  CHECK(shares == Approx(1));
  REQUIRE(pair.metrics.size() == 2);
  CHECK(pair.metrics[0].name == "ratio of step.gemm_ms");
  CHECK(pair.metrics[0].predicted == Approx(gemm[0] / gemm[1]));
  CHECK(pair.metrics[1].predicted == Approx(device[0] / device[1]));
  CHECK(pair.metrics[1].measured == 1.5);
  // What both runs share cancels: the ratio is surer than its parts.
  const auto width = [](const ComparedMetric& m) { return (m.high - m.low) / m.predicted; };
  CHECK(width(pair.metrics[1]) > 0);
  CHECK(width(pair.metrics[1]) < width(step.metrics[0]));
}

TEST_CASE("what is refused has no pairs left to compare") {
  const TempFolder folder;
  const auto loaded = load_published_case(folder.write(
      "refused.yaml",
      "refused: needs tp 3\n" + kHead +
          replaced(kSteps, "quantization: fp8-tensor", "quantization: fp8-tensor, parallel: {tp: 3}")));
  INFO((loaded.ok() ? "" : to_string(loaded.errors())));
  REQUIRE(loaded.ok());
  CHECK(contains(loaded->refusal, "parallel.tp"));
  CHECK(loaded->pairs.empty());
  const auto compared = compare_case(*loaded, fast());
  REQUIRE(compared.ok());
  CHECK(compared->runs.empty());
}

TEST_CASE("a step is of one pool, a pair of two runs with a workload or a step") {
  const std::string pools = case_errors(
      replaced(kHead + kSteps, "deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24}",
               "deployment: {pools: [{name: a, hardware: h200, model: qwen3-8b, engine: vllm-0.24}]}"));
  CHECK(contains(pools, "bad.yaml:9:"));
  CHECK(contains(pools, "runs[0].step"));
  CHECK(contains(pools, "without `pools`"));
  const std::string capacity = case_errors(kHead + kRuns + R"(  - name: kv
    data: "made up"
    measured: {kv_cache.blocks: 1000}
pairs:
  - {name: p, data: d, of: two, to: kv, measured: {ttft_ms.mean: 1.5}}
)");
  CHECK(contains(capacity, "bad.yaml:20:"));
  CHECK(contains(capacity, "pairs[0]: a run of kv_cache.blocks"));
}

TEST_CASE("mistakes in steps and pairs are located") {
  const auto wrong = [](const std::string& what, const std::string& by) {
    return case_errors(replaced(kHead + kSteps, what, by));
  };
  CHECK(contains(wrong("to: narrow", "to: narow"), "pairs[0].to: no run of this case"));
  CHECK(contains(wrong("step.gemm_ms: 1.5", "step.gems_ms: 1.5"), "unknown metric of a step"));
  CHECK(contains(wrong("step.gemm_ms: 1.5", "ttft_ms.mean: 1.5"), "unknown metric of a step"));
  CHECK(contains(
      wrong("step: {prefill: [[2048, 0]], decode: {sequences: 8, context_tokens: 8192}}", "step: {}"),
      "the step is empty"));
  CHECK(contains(wrong("[[2048, 0]]", "[[2048]]"), "[new tokens, context before]"));
  CHECK(contains(
      case_errors(replaced(kHead + kRuns,
                           "    measured: {ttft_ms.mean: 20, tpot_ms.p50: 4, e2e_ms.max: 1000}\n", "")),
      "nothing to compare"));
}

TEST_CASE("that something does not fit is a prediction too") {
  const TempFolder folder;
  const std::string runs =
      replaced(kRuns, "measured: {ttft_ms.mean: 20, tpot_ms.p50: 4, e2e_ms.max: 1000}", "does_not_fit: true");
  const auto predicted = [&](const std::string& text) {
    const auto loaded = load_published_case(folder.write("fit.yaml", kHead + text));
    INFO((loaded.ok() ? "" : to_string(loaded.errors())));
    REQUIRE(loaded.ok());
    const auto compared = compare_case(*loaded, fast());
    REQUIRE(compared.ok());
    REQUIRE(compared->runs[0].metrics.size() == 1);
    CHECK(compared->runs[0].metrics[0].name == "does_not_fit");
    return compared->runs[0].metrics[0].predicted;
  };
  CHECK(predicted(runs) == 0);
  // Weights of 141 GB in 48 GB; and a prompt that no pool of one L40S holds.
  CHECK(predicted(
            replaced(runs, "hardware: h200, model: qwen3-8b", "hardware: l40s, model: llama-3.1-70b")) == 1);
  CHECK(predicted(replaced(replaced(runs, "hardware: h200, model: qwen3-8b, engine: vllm-0.24",
                                    "hardware: l40s, model: qwen3-32b-fp8, engine: sglang-0.5"),
                           "value: 300", "value: 30720")) == 1);
}

TEST_CASE("every published case of the repository can be read, says where it is from and what it assumes") {
  const std::vector<std::string> ids = published_case_ids();
  REQUIRE(ids.size() >= 13);
  std::size_t refused = 0, runs = 0;
  for (const std::string& id : ids) {
    const auto loaded = load_published_case(published_case_path(id));
    INFO(id << ": " << (loaded.ok() ? "" : to_string(loaded.errors())));
    REQUIRE(loaded.ok());
    CHECK(loaded->url.starts_with("https://"));
    CHECK_FALSE(loaded->assumptions.empty());
    CHECK(loaded->refusal.empty() == loaded->needs.empty());  // nothing is refused any longer that could run
    CHECK_FALSE(contains(loaded->refusal, ORRERY_SOURCE_DIR));
    refused += loaded->refusal.empty() ? 0 : 1;
    runs += loaded->runs.size();
  }
  CHECK(refused == 2);
  CHECK(runs >= 50);
}
