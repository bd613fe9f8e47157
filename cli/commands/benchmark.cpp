#include "cli/commands/benchmark.h"

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdio>

#include "base/files.h"
#include "base/json.h"
#include "cli/interrupt.h"
#include "reports/benchmark_comparison.h"
#include "workloads/benchmark_result.h"
#include "workloads/trace_reader.h"
#include "workloads/trace_writer.h"

namespace orrery {

namespace {

constexpr std::uint64_t kDrawSeed = 1;  // of arrivals that import has to draw: a scenario's default seed

Status write_trace(const std::string& path, const BenchmarkWorkload& workload) {
  ORRERY_TRY(writer, TraceWriter::create(path));
  for (const TraceRequest& request : workload.requests) writer.add(request);
  return writer.commit();
}

Json rate_json(const BenchmarkResult& result) {
  if (!result.request_rate) return nullptr;
  return std::isinf(*result.request_rate) ? Json("inf") : Json(*result.request_rate);
}

Json benchmark_json(const BenchmarkResult& result, const BenchmarkWorkload& workload) {
  Json metrics = Json::object();
  for (const BenchmarkMetric& m : result.metrics) metrics[m.name()] = m.value;
  return {{"client", to_string(result.tool)},
          {"backend", result.backend},
          {"model", result.model},
          {"request_rate", rate_json(result)},
          {"max_concurrency", result.max_concurrency},
          {"completed", result.completed},
          {"failed", result.failed},
          {"input_tokens", result.input_tokens},
          {"output_tokens", result.output_tokens},
          {"requests", workload.requests.size()},
          {"closed_loop", workload.concurrency},
          {"measured", metrics},
          {"notes", workload.notes}};
}

std::string benchmark_text(const BenchmarkResult& result, const BenchmarkWorkload& workload) {
  std::string out = std::string(to_string(result.tool)) + (result.model.empty() ? "" : ", " + result.model) +
                    ": " + std::to_string(result.completed) + " requests completed, " +
                    std::to_string(result.input_tokens) + " + " + std::to_string(result.output_tokens) +
                    " tokens\n";
  for (const BenchmarkMetric& m : result.metrics)
    out += "  " + m.name() + " " + format_fixed(m.value, 3) + "\n";
  for (const std::string& note : workload.notes) out += "· " + note + "\n";
  return out;
}

}  // namespace

void add_benchmark_options(CLI::App& command, BenchmarkFileOptions& options) {
  const auto tokens = CLI::Range(std::int64_t{1}, kMaxTokens);
  command.add_option("--run", options.run, "of a benchmark file with several runs, from 1")
      ->check(CLI::Range(std::int64_t{1}, std::int64_t{1'000'000'000}));
  command
      .add_option("--input-len", options.lengths.input,
                  "prompt tokens of every request, when the benchmark file has only totals")
      ->check(tokens);
  command
      .add_option("--output-len", options.lengths.output,
                  "output tokens of every request, when the benchmark file has only totals")
      ->check(tokens);
}

Result<int> import_benchmark(const std::string& file, const BenchmarkFileOptions& options,
                             const std::string& folder, const CommandContext& context) {
  ORRERY_TRY(result, read_benchmark(file, options.run));
  ORRERY_TRY(workload, benchmark_workload(result, options.lengths, kDrawSeed));
  const Json json = benchmark_json(result, workload);
  if (!folder.empty()) {
    ORRERY_TRY(out, AtomicDirectory::create(folder));
    ORRERY_TRY_STATUS(write_trace(out.file("trace.jsonl"), workload));
    ORRERY_TRY_STATUS(write_file_atomically(out.file("benchmark.json"), canonical_json(json)));
    ORRERY_TRY_STATUS(out.commit());
  }
  if (context.json) {
    std::fputs(canonical_json(json).c_str(), stdout);
  } else if (!context.quiet) {
    std::fputs(benchmark_text(result, workload).c_str(), stdout);
    if (!folder.empty()) {
      std::printf("workload: {trace: %s/trace.jsonl", folder.c_str());
      if (workload.concurrency > 0)
        std::printf(", closed_loop: {concurrency: %lld}", static_cast<long long>(workload.concurrency));
      std::printf("}\n");
    }
  }
  return static_cast<int>(ExitCode::done);
}

Result<int> validate_benchmark(const std::string& file, const std::string& scenario_file,
                               const BenchmarkFileOptions& options, const std::string& folder,
                               const CommandContext& context) {
  if (scenario_file.empty()) {
    return make_error(ErrorKind::usage,
                      "--benchmark FILE needs the scenario that it was measured on: orrery validate "
                      "--benchmark FILE SCENARIO.yaml");
  }
  watch_interrupts();
  ScenarioOptions reading;
  reading.overrides = context.overrides;
  reading.needs_workload = false;
  ORRERY_TRY(scenario, load_scenario(scenario_file, reading));
  ORRERY_TRY(result, read_benchmark(file, options.run));
  ORRERY_TRY(workload, benchmark_workload(result, options.lengths, scenario.seed));
  BenchmarkCompareOptions comparing;
  comparing.threads = context.threads;
  comparing.keep_going = [](std::uint64_t) { return !interrupted(); };
  ORRERY_TRY(comparison, compare_with_benchmark(scenario, result, workload, comparing));
  ORRERY_TRY(corrections, shipped_interval_corrections());
  correct_intervals(comparison, corrections, evidence_of(scenario, comparison.provenance));
  const Json json = comparison_json(comparison);
  if (!folder.empty()) {
    ORRERY_TRY(out, AtomicDirectory::create(folder));
    ORRERY_TRY_STATUS(write_trace(out.file("trace.jsonl"), workload));
    ORRERY_TRY_STATUS(write_file_atomically(out.file("comparison.json"), canonical_json(json)));
    ORRERY_TRY_STATUS(out.commit());
  }
  if (context.json)
    std::fputs(canonical_json(json).c_str(), stdout);
  else if (!context.quiet)
    std::fputs(comparison_text(comparison).c_str(), stdout);
  return static_cast<int>(ExitCode::done);
}

}  // namespace orrery
