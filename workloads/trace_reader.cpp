#include "workloads/trace_reader.h"

#include <filesystem>
#include <utility>

#include "base/files.h"
#include "base/text.h"
#include "workloads/readers/line_trace.h"

namespace orrery {

namespace {

constexpr const char* kFormats =
    "Orrery reads Orrery and Mooncake JSON Lines, Azure 2023/2024 CSV, BurstGPT CSV and `vllm bench serve` "
    "results";

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

Error directory_error(const std::string& path) {
  std::error_code ignored;
  const bool servegen = std::filesystem::exists(std::filesystem::path(path) / "chunk-0-trace.csv", ignored) ||
                        std::filesystem::exists(std::filesystem::path(path) / "chunk-1-trace.csv", ignored);
  std::string message = "this is a directory; expected a trace file";
  if (servegen)
    message += ". It looks like ServeGen client profiles: use `generator: {servegen: {folder: …}}`";
  return invalid_input(std::move(message), SourceLocation{path, 0, 0});
}

}  // namespace

Result<std::unique_ptr<TraceReader>> open_trace(const std::string& path, TraceReadOptions options) {
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) return directory_error(path);
  ORRERY_TRY(lines, LineReader::open(path));
  std::string_view line;
  std::string first;
  while (first.empty() && lines.next(line)) {
    if (line.find_first_not_of(" \t\r") != std::string_view::npos) first = std::string(line);
  }
  if (lines.error() != nullptr) return *lines.error();
  const SourceLocation where{path, static_cast<int>(lines.line_number()), 0};
  if (first.empty())
    return invalid_input("the trace is empty; expected at least one request", SourceLocation{path, 0, 0});

  if (first[first.find_first_not_of(" \t")] == '{') {
    if (looks_like_vllm_bench(first)) return make_vllm_bench_reader(path, first);
    return make_jsonl_reader(std::move(lines), std::move(first), options);
  }
  if (contains(first, "ContextTokens") || contains(first, "GeneratedTokens")) {
    return make_azure_reader(std::move(lines), first, options);
  }
  if (contains(first, "Request tokens") || contains(first, "Response tokens")) {
    return make_burstgpt_reader(std::move(lines), first, options);
  }
  return invalid_input(
      "this is no trace format that Orrery knows: the first line is " + quote(first) + ". " + kFormats,
      where);
}

}  // namespace orrery
