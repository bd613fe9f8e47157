// Cases that say what they do not know: ranges of assumptions, and the highest rate within limits.

#include "case_texts.h"
#include "catch.h"
#include "reports/casebook/case_comparison.h"
#include "reports/casebook/published/import_rules.h"
#include "reports/casebook/published_case.h"
#include "sim/ensemble/find_rate.h"

using namespace orrery;
using namespace orrery::test;

namespace {

const std::string kHead = R"(title: a made-up case
engine: vLLM 9.9
source: {text: nobody, url: "https://example.org", license: none}
assumptions: ["everything"]
)";

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

CaseOptions fast() {
  CaseOptions options;
  options.runs = 0;
  return options;
}

}  // namespace

TEST_CASE("an unknown assumption widens the interval over both of its ends and leaves the prediction") {
  const TempFolder folder;
  const std::string ends = R"(  - name: wide, short contexts
    data: "made up"
    deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24}
    step: {decode: {sequences: 8, context_tokens: 8192}}
  - name: wide, long contexts
    data: "made up"
    deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24}
    step: {prefill: [[2048, 0]], decode: {sequences: 8, context_tokens: 800000}}
pairs:
)";
  const std::string ranges = R"(  - name: bf16 ÷ fp8, long contexts
    data: "made up"
    of: wide, long contexts
    to: narrow
ranges:
  - {what: contexts, of: wide, low: "wide, short contexts", high: "wide, long contexts"}
  - {what: contexts, of: bf16 ÷ fp8, low: bf16 ÷ fp8, high: "bf16 ÷ fp8, long contexts"}
)";
  const std::string with = replaced(kHead + kSteps, "pairs:\n", ends) + ranges;
  const auto plain = load_published_case(folder.write("plain.yaml", kHead + kSteps));
  const auto ranged = load_published_case(folder.write("ranged.yaml", with));
  INFO((ranged.ok() ? "" : to_string(ranged.errors())));
  REQUIRE(plain.ok());
  REQUIRE(ranged.ok());
  CaseOptions options;
  options.runs = 4;
  const auto before = compare_case(*plain, options), after = compare_case(*ranged, options);
  REQUIRE(before.ok());
  REQUIRE(after.ok());
  REQUIRE(after->runs.size() == 2);  // the ends have no rows of their own
  for (std::size_t i = 0; i < 2; ++i) {
    REQUIRE(after->runs[i].metrics.size() == before->runs[i].metrics.size());
    CHECK(after->runs[i].notes.size() == before->runs[i].notes.size() + after->runs[i].metrics.size());
    for (std::size_t j = 0; j < after->runs[i].metrics.size(); ++j) {
      const ComparedMetric &was = before->runs[i].metrics[j], &now = after->runs[i].metrics[j];
      CAPTURE(was.name);
      CHECK(now.predicted == was.predicted);
      CHECK(now.measured == was.measured);
      CHECK(now.low <= was.low);
      CHECK(now.high >= was.high);
      // What intervals are fitted to is the prices' own, whatever the source leaves open.
      ComparedMetric corrected = now;
      correct_interval(corrected, {}, {});
      CHECK(corrected.prices_low == was.low);
      CHECK(corrected.prices_high == was.high);
      CHECK(corrected.high == now.high);
    }
  }
  const auto of = [](std::size_t run, const PublishedCase& in) {
    const auto pricer = StepPricer::create(in.runs[run].scenario.pool.instance);
    REQUIRE(pricer.ok());
    return static_cast<double>(pricer->explain(in.runs[run].step->shape()).device_ns) * 1e-6;
  };
  const ComparedMetric& device = after->runs[0].metrics[0];
  CHECK(device.low <= of(2, *ranged));  // the ends' own intervals, too
  CHECK(device.high >= of(3, *ranged));
  CHECK(device.high > before->runs[0].metrics[0].high);
  // Without intervals the ends stand in the notes alone.
  const auto nominal = compare_case(*ranged, fast());
  REQUIRE(nominal.ok());
  CHECK(nominal->runs[0].metrics[0].low == nominal->runs[0].metrics[0].high);
  CHECK(nominal->runs[0].notes.size() == 1);
}

TEST_CASE("mistakes in ranges are located") {
  const std::string range = "ranges:\n  - {what: x, of: wide, low: wide, high: HIGH}\n";
  CHECK(contains(case_errors(kHead + kSteps + replaced(range, "HIGH", "nobody")), "ranges[0].high"));
  CHECK(contains(
      case_errors(kHead + kSteps + replaced(replaced(range, "HIGH", "wide"), "of: wide", "of: narrow")),
      "with figures"));
  CHECK(contains(
      case_errors(kHead + kSteps + "ranges:\n  - {what: x, of: bf16 ÷ fp8, low: wide, high: wide}\n"),
      "pairs at its ends"));
  CHECK(contains(
      case_errors(replaced(kHead + kSteps, "    measured: {step.gemm_ms: 1.5, step.device_ms: 1.5}\n", "")),
      "give the pair"));
}

TEST_CASE("the highest rate within limits is a figure, and no other figure stands beside it") {
  const std::string rate = R"(deployment: {hardware: h200, model: qwen3-8b, engine: vllm-0.24}
runs:
  - name: most
    data: "made up"
    slo: {ttft_ms: 60, percentile: 90}
    workload:
      generator:
        requests: 40
        arrivals: {process: fixed, rate: 20}
        input: {distribution: fixed, value: 2000}
        output: {distribution: fixed, value: 4}
    measured: {queries_per_minute: 1000}
)";
  const TempFolder folder;
  const auto loaded = load_published_case(folder.write("rate.yaml", kHead + rate));
  INFO((loaded.ok() ? "" : to_string(loaded.errors())));
  REQUIRE(loaded.ok());
  const auto compared = compare_case(*loaded, fast());
  REQUIRE(compared.ok());
  REQUIRE(compared->runs.size() == 1);
  const auto searched = find_rate(loaded->runs[0].scenario, {});
  REQUIRE(searched.ok());
  REQUIRE(searched->found);
  CHECK(compared->runs[0].metrics[0].name == "queries_per_minute");
  CHECK(compared->runs[0].metrics[0].predicted == Approx(60 * searched->best.requests_per_s));
  CHECK_FALSE(compared->runs[0].provenance.empty());
  // A looser limit admits no fewer.
  const auto loose =
      load_published_case(folder.write("loose.yaml", replaced(kHead + rate, "ttft_ms: 60", "ttft_ms: 600")));
  REQUIRE(loose.ok());
  CHECK(compare_case(*loose, fast())->runs[0].metrics[0].predicted >= compared->runs[0].metrics[0].predicted);
  const std::string slo = "    slo: {ttft_ms: 60, percentile: 90}\n";
  CHECK(contains(case_errors(replaced(kHead + rate, slo, "")), "belong together"));
  CHECK(contains(case_errors(replaced(kHead + rate, "queries_per_minute", "duration_s")), "belong together"));
  const std::string misfit =
      replaced(kHead + rate, "    measured: {queries_per_minute: 1000}\n", "    does_not_fit: true\n");
  CHECK(contains(case_errors(misfit), "runs[0].slo"));
  CHECK(contains(case_errors(replaced(kHead + kSteps, "  - name: narrow\n", "  - name: narrow\n" + slo)),
                 "runs[1].slo"));
}

TEST_CASE("removing a case or a run moves no prediction of the others") {
  const TempFolder folder;
  const auto both = load_published_case(folder.write("both.yaml", kHead + kSteps));
  const std::string without = (kHead + kSteps).substr(0, (kHead + kSteps).find("  - name: narrow"));
  const auto alone = load_published_case(folder.write("alone.yaml", without));
  REQUIRE(both.ok());
  REQUIRE(alone.ok());
  CaseOptions options;
  options.runs = 2;
  const auto first = compare_case(*both, options), second = compare_case(*alone, options);
  REQUIRE(first.ok());
  REQUIRE(second.ok());
  CHECK(first->runs[0].metrics[0].predicted == second->runs[0].metrics[0].predicted);
  CHECK(first->runs[0].metrics[0].low == second->runs[0].metrics[0].low);
  CHECK(first->runs[0].metrics[0].high == second->runs[0].metrics[0].high);
}

TEST_CASE("what is known of a row is said of those that its conditions name") {
  const RowExplanation known{{"Qwen"}, {"h20"}, {"sglang-0.4"}, {}, {"throughput"}, "because"};
  CHECK(known.holds("QwenLM/Qwen3 docs", "h20", "sglang-0.4", "qwen3-8b", "throughput"));
  CHECK_FALSE(known.holds("QwenLM/Qwen3 docs", "h20", "sglang-0.4", "qwen3-8b", "tpot_ms"));
  CHECK_FALSE(known.holds("others", "h20", "sglang-0.4", "qwen3-8b", "throughput"));
}
