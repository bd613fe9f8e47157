// `orrery import KIND FILE`: what others measured, checked and put where the cost model looks.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "base/files.h"
#include "calibrate/pack.h"
#include "calibrate/tables.h"
#include "cli/command_table.h"
#include "cli/commands/benchmark.h"

namespace orrery {

namespace {

struct ImportOptions {
  std::string kind, file, to;
  BenchmarkFileOptions benchmark;
};

int import_calibration(const ImportOptions& options, const CommandContext& context) {
  auto import = calibrate::read_pack(options.file);
  if (!import.ok()) return report_errors(import.errors());
  const calibrate::JournalHeader& header = import->journal.header;
  const std::string root = options.to.empty() ? data_directory() + "/hardware_profiles/tables" : options.to;
  const std::string directory = root + "/" + header.hardware + "/" + header.kernels;
  const Status written = calibrate::write_tables(import->journal, directory);
  if (!written.ok()) return report_errors(written.errors());
  for (const std::string& note : import->notes) std::fprintf(stderr, "orrery: %s\n", note.c_str());
  if (context.json) {
    const Json out{{"hardware", header.hardware}, {"kernels", header.kernels}, {"device", header.device.name},
                   {"figures", import->figures},  {"check", import->check},    {"tables", directory}};
    std::fputs(canonical_json(out).c_str(), stdout);
  } else if (!context.quiet) {
    std::printf("%s (%s, driver %s): %zu figures, check %s\ntables: %s\n", header.hardware.c_str(),
                header.device.name.c_str(), header.device.driver.c_str(), import->figures,
                import->check.c_str(), directory.c_str());
  }
  return static_cast<int>(ExitCode::done);
}

}  // namespace

void register_import_command(CLI::App& app, CommandContext& context) {
  auto options = std::make_shared<ImportOptions>();
  CLI::App* c =
      app.add_subcommand("import",
                         "brings in what was measured elsewhere\n"
                         "example: orrery import calibration mi300x.orrery.json\n"
                         "example: orrery import benchmark openai-4.0qps-Qwen3-8B.json --to out/bench");
  c->add_option("kind", options->kind,
                "calibration: a file that orrery calibrate --pack wrote; benchmark: what vllm bench serve "
                "--save-result or sglang.bench_serving --output-file wrote")
      ->required()
      ->check(CLI::IsMember({"calibration", "benchmark"}));
  c->add_option("file", options->file, "the file")->required();
  c->add_option(
      "--to", options->to,
      "calibration: folder of tables (default: hardware_profiles/tables of this Orrery); benchmark: "
      "folder for trace.jsonl and benchmark.json (default: only says what the file holds)");
  add_benchmark_options(*c, options->benchmark);
  c->callback([&context, options] {
    context.action = [&context, options] {
      if (options->kind == "calibration") return import_calibration(*options, context);
      const auto code = import_benchmark(options->file, options->benchmark, options->to, context);
      return code.ok() ? *code : report_errors(code.errors());
    };
  });
}

}  // namespace orrery
