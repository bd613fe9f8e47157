// What clients of a server saw beside what the simulation of the same requests predicts.
#pragma once

#include <functional>
#include <string>

#include "live/endpoint_client.h"
#include "reports/benchmark_comparison.h"

namespace orrery {

struct EndpointComparison {
  BenchmarkComparison compared;
  std::string verdict;  // inside, outside, late (the client was, and nothing is concluded) or uninformative
  std::vector<std::string> missed;  // metrics whose interval missed
  std::int64_t kv_blocks = 0;       // of an instance, as the memory plan promises
};

// Intervals of 90 % from `runs` paired runs (0: none). The requests are those that were sent, at the times at
// which they were meant to be, with the lengths that the server counted; those that failed are in the
// simulation with the trace's lengths, and in no measurement. Errors: nothing was completed (check failed).
Result<EndpointComparison> compare_with_endpoint(const Scenario& scenario, const EndpointRun& run,
                                                 const BenchmarkCompareOptions& options);

// comparison.json: the metrics as everywhere, and `verdict`, `missed`, `client`, `server`.
Json endpoint_json(const EndpointComparison& comparison, const EndpointRun& run);
std::string endpoint_text(const EndpointComparison& comparison, const EndpointRun& run);
// measured.csv: a request a row, in order of submission.
std::string measured_csv(const EndpointRun& run);
// comparison.html: one offline page.
std::string endpoint_page(const EndpointComparison& comparison, const EndpointRun& run,
                          const std::string& title, const std::string& command);

}  // namespace orrery
