#include "cli/commands/trace.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "cli/console.h"
#include "cli/interrupt.h"
#include "workloads/trace_reader.h"
#include "workloads/trace_stats.h"
#include "workloads/trace_writer.h"
#include "workloads/workload.h"

namespace orrery {

namespace {

struct ConvertOptions {
  std::string in, out, format = "jsonl";
  bool sort = false, drop_invalid = false;
  double limit_duration_s = 0;
};

struct GenerateOptions {
  std::string spec, out;
  std::uint64_t seed = 1;
  bool seed_given = false;
};

int print_stats(const std::string& path, const CommandContext& context) {
  watch_interrupts();
  auto reader = open_trace(path);
  if (!reader.ok()) return report_errors(reader.errors());
  TraceStats stats;
  TraceRequest request;
  while (!interrupted() && (*reader)->next(request)) stats.add(request);
  if (interrupted()) return report_errors({interruption()});
  if ((*reader)->error() != nullptr) return report_errors({*(*reader)->error()});
  const std::string format = (*reader)->format();
  if (context.json) {
    Json json{{"file", path}, {"format", format}};
    json.update(stats.to_json());
    std::fputs(canonical_json(json).c_str(), stdout);
  } else {
    std::fputs(stats.to_text(path + ": " + format).c_str(), stdout);
  }
  return 0;
}

// Streams, unless sorting needs everything at once. Returns how many requests were written.
Result<std::uint64_t> copy_requests(RequestSource& source, const ConvertOptions& options,
                                    TraceWriter& writer) {
  const SimTime end = options.limit_duration_s > 0
                          ? SimTime() + duration_from_seconds(options.limit_duration_s)
                          : SimTime::never();
  std::vector<TraceRequest> all;
  TraceRequest request;
  std::uint64_t written = 0;
  while (!interrupted() && source.next(request)) {
    if (request.arrival >= end) {
      if (options.sort) continue;
      break;
    }
    ++written;
    if (options.sort) {
      all.push_back(request);
    } else {
      writer.add(request);
    }
  }
  if (interrupted()) return interruption();
  if (source.error() != nullptr) return *source.error();
  // Stable: requests of one instant keep the file's order.
  std::stable_sort(all.begin(), all.end(),
                   [](const TraceRequest& a, const TraceRequest& b) { return a.arrival < b.arrival; });
  // A first row that is not the earliest leaves formats with calendar time with arrivals before zero.
  const SimDuration shift =
      !all.empty() && all.front().arrival < SimTime() ? SimTime() - all.front().arrival : SimDuration();
  for (TraceRequest& sorted : all) {
    sorted.arrival += shift;
    writer.add(sorted);
  }
  return written;
}

// What convert and generate say at their end.
void print_written(const std::string& path, std::uint64_t written, std::uint64_t dropped,
                   const CommandContext& context) {
  if (context.json) {
    const Json json{{"file", path}, {"requests", written}, {"dropped", dropped}};
    std::fputs(canonical_json(json).c_str(), stdout);
  } else if (!context.quiet) {
    std::printf("%s: %llu requests\n", path.c_str(), static_cast<unsigned long long>(written));
  }
}

int convert(const ConvertOptions& options, const CommandContext& context) {
  watch_interrupts();
  auto reader = open_trace(options.in, TraceReadOptions{options.drop_invalid, options.sort});
  if (!reader.ok()) return report_errors(reader.errors());
  auto writer = TraceWriter::create(options.out);
  if (!writer.ok()) return report_errors(writer.errors());
  const auto written = copy_requests(**reader, options, *writer);
  if (!written.ok()) return report_errors(written.errors());
  if (*written == 0)
    return report_errors({invalid_input("no request is left; nothing was written", {options.in, 0, 0})});
  if (const Status status = writer->commit(); !status.ok()) return report_errors(status.errors());
  if ((*reader)->dropped() > 0) {
    say(LogLevel::warning, "rows left out: " + std::to_string((*reader)->dropped()) +
                               "; the first: " + (*reader)->first_dropped()->to_string());
  }
  print_written(options.out, *written, (*reader)->dropped(), context);
  return 0;
}

void mark_known(const Yaml& node) {
  if (node.is_map()) {
    for (const auto& [key, value] : node.entries()) mark_known(value);
  } else if (node.is_list()) {
    for (const Yaml& item : node.items()) mark_known(item);
  }
}

// A file with `generator: {…}`, by itself or as part of a scenario's `workload:`, and optionally `seed:`.
Result<WorkloadSpec> read_spec(const GenerateOptions& options, const CommandContext& context,
                               std::uint64_t& seed) {
  ORRERY_TRY(document, YamlDocument::load(options.spec));
  for (const std::string& assignment : context.overrides) ORRERY_TRY_STATUS(document.set(assignment));
  const std::size_t slash = options.spec.rfind('/');
  const std::string folder = slash == std::string::npos ? "" : options.spec.substr(0, slash);
  const Yaml root = document.root();
  const Yaml workload = root.optional("workload");
  const WorkloadSpec spec = read_workload(workload ? workload : root, folder);
  if (const Yaml node = root.optional("seed")) seed = static_cast<std::uint64_t>(node.integer(1, 0));
  if (workload) {
    // A whole scenario may stand here; its other parts are checked by `orrery simulate`.
    for (const char* key : {"deployment", "slo", "overrides", "faults"}) mark_known(root.optional(key));
  }
  document.finish();
  if (!document.errors().empty()) return document.errors();
  if (!spec.generator) {
    return invalid_input("expected `generator: {requests: …, arrivals: {…}, input: {…}, output: {…}}`",
                         SourceLocation{options.spec, 0, 0}, workload ? "workload.generator" : "generator");
  }
  return spec;
}

int generate(const GenerateOptions& options, const CommandContext& context) {
  watch_interrupts();
  std::uint64_t seed = 1;
  auto spec = read_spec(options, context, seed);
  if (!spec.ok()) return report_errors(spec.errors());
  if (options.seed_given) seed = options.seed;
  auto source = open_workload(*spec, seed);
  if (!source.ok()) return report_errors(source.errors());
  auto writer = TraceWriter::create(options.out);
  if (!writer.ok()) return report_errors(writer.errors());
  TraceRequest request;
  std::uint64_t written = 0;
  for (; !interrupted() && (*source)->next(request); ++written) writer->add(request);
  if (interrupted()) return report_errors({interruption()});
  if ((*source)->error() != nullptr) return report_errors({*(*source)->error()});
  if (const Status status = writer->commit(); !status.ok()) return report_errors(status.errors());
  print_written(options.out, written, 0, context);
  return 0;
}

}  // namespace

void register_trace_command(CLI::App& app, CommandContext& context) {
  CLI::App* trace = app.add_subcommand("trace", "looks at, converts and makes workloads");
  trace->require_subcommand(1);
  trace->footer("Example: orrery trace stats workloads/excerpts/mooncake_conversation_10min.jsonl");

  CLI::App* stats =
      trace->add_subcommand("stats", "how many requests, how bursty, how long, how much they share");
  auto path = std::make_shared<std::string>();
  stats->add_option("FILE", *path, "trace in any known format")->required();
  stats->footer("Example: orrery trace stats trace.jsonl.zst --json");
  stats->callback(
      [path, &context] { context.action = [path, &context] { return print_stats(*path, context); }; });

  CLI::App* convert_app = trace->add_subcommand("convert", "any known format to Orrery's JSON Lines");
  auto converting = std::make_shared<ConvertOptions>();
  convert_app->add_option("IN", converting->in, "trace in any known format")->required();
  convert_app->add_option("OUT", converting->out, "file to write; .gz and .zst are compressed")->required();
  convert_app->add_flag("--sort", converting->sort, "order by time (needs memory for the whole trace)");
  convert_app->add_flag("--drop-invalid", converting->drop_invalid,
                        "leave out rows that break a rule, and say how many");
  convert_app
      ->add_option("--limit-duration", converting->limit_duration_s, "only arrivals before this second")
      ->check(CLI::Range(1e-9, 1e9));
  convert_app->add_option("--format", converting->format, "output format")->check(CLI::IsMember({"jsonl"}));
  convert_app->footer(
      "Example: orrery trace convert AzureLLMInferenceTrace_conv.csv azure.jsonl --limit-duration 600");
  convert_app->callback([converting, &context] {
    context.action = [converting, &context] { return convert(*converting, context); };
  });

  CLI::App* generate_app =
      trace->add_subcommand("generate", "writes the requests of a `generator:` as a trace");
  auto generating = std::make_shared<GenerateOptions>();
  generate_app->add_option("SPEC", generating->spec, "YAML with generator: {…}, or a scenario")->required();
  generate_app->add_option("OUT", generating->out, "file to write; .gz and .zst are compressed")->required();
  CLI::Option* seed =
      generate_app->add_option("--seed", generating->seed, "instead of the file's seed (default 1)");
  generate_app->footer("Example: orrery trace generate poisson.yaml poisson.jsonl --seed 7");
  generate_app->callback([generating, seed, &context] {
    generating->seed_given = seed->count() > 0;
    context.action = [generating, &context] { return generate(*generating, context); };
  });
}

}  // namespace orrery
