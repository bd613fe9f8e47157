// Measurements that others published, as files of reports/cases/published: what was deployed and asked, the
// figures with their source, and every assumption that a prediction needs. Nothing of Orrery is fitted to
// them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "costmodel/step_pricer.h"
#include "costmodel/step_shape.h"
#include "sim/costed/scenario.h"
#include "workloads/benchmark_result.h"

namespace orrery {

// A file with a row per request. Columns by name; it is read only when it is there.
struct PublishedRequests {
  std::string file;                                     // relative to ../shared, or absolute
  std::string arrival_s, prompt_tokens, output_tokens;  // needed: the same requests are simulated
  std::string ttft_ms, e2e_ms;                          // needed: what is compared
};

// "step.grouped_gemm_ms"
std::string step_class_metric(OpClass op_class);

// KV blocks of the memory plan: needs no workload, and stands in a run of its own.
constexpr const char* capacity_metric = "kv_cache.blocks";

// The most requests a minute that the deployment serves within the run's `slo`, found by trying rates.
constexpr const char* rate_metric = "queries_per_minute";

// A step priced by itself, in place of a workload; `measured` then speaks of it: step.device_ms, and
// step.<class>_ms for the operators of one class.
struct PublishedStep {
  std::vector<PrefillChunk> prefill;
  std::int32_t decode_sequences = 0;
  std::int64_t decode_context_tokens = 0;  // their sum
  StepShape shape() const {
    return {.prefill = prefill,
            .decode_sequences = decode_sequences,
            .decode_context_tokens = decode_context_tokens};
  }
};

struct PublishedRun {
  std::string name;
  std::string data;  // where the figures stand: file in ../shared and row
  Scenario scenario;
  std::vector<BenchmarkMetric> measured;  // named as in summary.json; percentiles as numpy computes them
  std::optional<PublishedRequests> requests;
  std::optional<PublishedStep> step;
  // Published is that the engine cannot serve it; `infeasible` holds what the memory plan says of that.
  bool does_not_fit = false;
  std::string infeasible;
  bool is_capacity() const;  // what is compared is the memory plan
  bool is_rate() const;      // what is compared is the highest rate
};

// A published ratio: a metric of one run of the case ÷ that of another.
struct PublishedPair {
  std::string name, data;
  std::size_t of = 0, to = 0;             // runs of the case; what is compared is of ÷ to
  std::vector<BenchmarkMetric> measured;  // `value` is the ratio; 0 where it stands for the end of a range
};

// What the source leaves open about one run (or pair): two others of the case stand for the ends of what it
// may have been. The prediction stays, its interval covers theirs.
struct PublishedRange {
  std::string what;
  bool of_pairs = false;
  std::size_t of = 0, low = 0, high = 0;  // runs or pairs of the case
};

struct PublishedCase {
  std::string id, file;         // id: the file's name without .yaml
  std::string title, engine;    // engine: as measured, with version
  std::string hardware, model;  // as the deployments name them, for lists
  std::string source, url, license;
  std::vector<std::string> assumptions;
  std::vector<std::string> residuals;  // where a prediction is off, and the physical reason as far as known
  // Why this version of Orrery cannot describe the deployment. `needs` is the file's `refused:`; `refusal`
  // the located error that reading the deployment gives. Both empty: the case runs.
  std::string needs, refusal;
  std::vector<PublishedRun> runs;  // empty when refused
  std::vector<PublishedPair> pairs;
  std::vector<PublishedRange> ranges;
};

// Errors are located in the file. A deployment that cannot be read is an error unless the file says
// `refused:`; one that can be read although the file says so runs, and `needs` stays as the hint to remove
// it.
Result<PublishedCase> load_published_case(const std::string& path);

// Ids of reports/cases/published, sorted.
std::vector<std::string> published_case_ids();
std::string published_case_path(const std::string& id);

}  // namespace orrery
