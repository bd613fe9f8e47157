// The requests behind a benchmark result, so that a simulation can answer the same ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "workloads/benchmark_result.h"
#include "workloads/request_source.h"

namespace orrery {

struct BenchmarkLengths {
  std::int64_t input = 0, output = 0;  // --input-len, --output-len; 0 = not given
};

struct BenchmarkWorkload {
  std::vector<TraceRequest> requests;  // in order of arrival
  std::int64_t concurrency = 0;        // > 0: a closed loop of so many, which ignores the arrival times
  std::vector<std::string> notes;      // what was known and what had to be drawn or assumed
};

// Lengths: the file's lists; else SGLang's random lengths when the totals show that all were equal; else
// `lengths`. Arrivals, the first rule that applies:
//  1. max_concurrency below the number of requests, with an infinite rate (or with a rate of which less than
//     90 % was reached and no start times): a closed loop in the order in which requests were sent;
//  2. start_times: as sent;
//  3. an infinite rate: all at once;
//  4. a rate: drawn (stream `arrivals` of `seed`) as the client draws them. vLLM: gamma gaps of shape
//     `burstiness`, one before the first request, stretched so that the last is sent at n ÷ rate; SGLang:
//     exponential gaps after the first request.
// Errors: lengths unknown (says what to pass), a ramp or a trace's times without start_times.
Result<BenchmarkWorkload> benchmark_workload(const BenchmarkResult& result, const BenchmarkLengths& lengths,
                                             std::uint64_t seed);

}  // namespace orrery
