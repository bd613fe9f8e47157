// What clients of a server saw beside what the simulation of the same requests predicts.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "live/endpoint_client.h"
#include "reports/benchmark_comparison.h"
#include "reports/casebook/step_evidence.h"

namespace orrery {

struct EndpointComparison {
  BenchmarkComparison compared;
  std::string verdict;  // inside, outside, late (the client was, and nothing is concluded) or uninformative
  std::vector<std::string> missed;       // metrics whose interval missed
  std::int64_t kv_blocks = 0;            // of an instance, as the memory plan promises
  std::vector<RequestRecord> predicted;  // of each request that was sent, in that order
  TimeSeries series;                     // of the same run
  std::optional<StepEvidence> steps;     // where the server's step log was there
  Json launches;                         // where steps of our kernels were timed launch by launch; else null
};

// Intervals of 90 % from `runs` paired runs (0: none). The requests are those that were sent, at the times at
// which they were meant to be, with the lengths that the server counted; those that failed are in the
// simulation with the trace's lengths, and in no measurement. Errors: nothing was completed (check failed).
Result<EndpointComparison> compare_with_endpoint(const Scenario& scenario, const EndpointRun& run,
                                                 const BenchmarkCompareOptions& options);

// Puts beside it what the server's step log says; `experiment`: which load of the log, "" finds it by its
// requests. Errors: as step_evidence; several pools or instances, whose steps one log is not.
Status add_step_evidence(EndpointComparison& comparison, const Scenario& scenario, const EndpointRun& run,
                         MeasuredRun log, const std::string& experiment);

// comparison.json: the metrics as everywhere, and `verdict`, `missed`, `client`, `server`; with a step log
// also `steps`.
Json endpoint_json(const EndpointComparison& comparison, const EndpointRun& run);
std::string endpoint_text(const EndpointComparison& comparison, const EndpointRun& run);
inline constexpr const char* measured_csv_header =
    "request,intended_s,sent_s,ttft_s,e2e_s,prompt_tokens,output_tokens,events,tries,status\n";
// measured.csv: a request a row, in order of submission.
std::string measured_csv(const EndpointRun& run);
// comparison.html: one offline page with charts. Errors: the charts library cannot be read.
Result<std::string> endpoint_page(const EndpointComparison& comparison, const EndpointRun& run,
                                  const std::string& title, const std::string& command);

}  // namespace orrery
