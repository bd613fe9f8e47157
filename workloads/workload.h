// The `workload:` part of a scenario: which requests, how fast, how many.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/yaml_reader.h"
#include "workloads/generator.h"
#include "workloads/request_source.h"

namespace orrery {

// When clients give up; a request's own timeout_ms or cancel_after_ms (trace) wins over these.
struct ClientSpec {
  double timeout_s = 0;           // 0 = never; after submission
  double disconnect_share = 0;    // of the requests, drawn by trace index
  double disconnect_after_s = 0;  // after submission
};

struct WorkloadSpec {
  std::string trace;  // path, resolved against the scenario's folder; empty when a generator is given
  std::optional<GeneratorSpec> generator;  // exactly one of trace and generator
  // Requests that the program itself made, in order of arrival: instead of either of them.
  std::shared_ptr<const std::vector<TraceRequest>> requests;
  double time_scale = 1.0;                   // 2.0 plays the trace twice as fast; > 0
  std::int64_t closed_loop_concurrency = 0;  // 0 = open loop (arrival times count)
  std::uint64_t limit_requests = 0;          // 0 = all
  double limit_duration_s = 0;               // 0 = all; arrivals at or after this simulated time are not read
  bool openai_frontend = false;              // frontend: openai adds the engine profile's API server
  ClientSpec client;
  double warmup_s = 0;  // requests that arrive within so long of the first one are served, but not measured
};

// Reads the map under `workload:`; `folder` is where relative paths start. Problems go to the document's
// errors.
WorkloadSpec read_workload(const Yaml& node, const std::string& folder);

// Opens the source, with time_scale and limits applied. `seed` is the scenario's seed (generators use it).
// An empty trace, a missing file, a directory are errors here; a bad line is an error of the source.
Result<std::unique_ptr<RequestSource>> open_workload(const WorkloadSpec& spec, std::uint64_t seed);

}  // namespace orrery
