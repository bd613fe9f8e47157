// Results of benchmark clients: `orrery import benchmark`, `orrery validate --benchmark`.
#pragma once

#include <cstdint>
#include <string>

#include "base/result.h"
#include "cli/command.h"
#include "workloads/benchmark_workload.h"

namespace CLI {
class App;
}

namespace orrery {

struct BenchmarkFileOptions {
  std::int64_t run = 0;  // which run of the file, from 1; 0 = the only one
  BenchmarkLengths lengths;
};
void add_benchmark_options(CLI::App& command, BenchmarkFileOptions& options);

// Says what the file holds and, with `folder`, writes its requests as trace.jsonl.
Result<int> import_benchmark(const std::string& file, const BenchmarkFileOptions& options,
                             const std::string& folder, const CommandContext& context);

// Simulates the file's requests on the scenario and prints figure beside figure; with `folder`,
// comparison.json and trace.jsonl.
Result<int> validate_benchmark(const std::string& file, const std::string& scenario,
                               const BenchmarkFileOptions& options, const std::string& folder,
                               const CommandContext& context);

}  // namespace orrery
