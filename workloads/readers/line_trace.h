// What all line-by-line trace formats share: blank lines, order, dropped rows, where a mistake is.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/files.h"
#include "workloads/trace_reader.h"

namespace orrery {

class LineTrace : public TraceReader {
 public:
  bool next(TraceRequest& request) final;
  const Error* error() const final { return error_ ? &*error_ : nullptr; }
  std::uint64_t dropped() const final { return dropped_; }
  const Error* first_dropped() const final { return first_dropped_ ? &*first_dropped_ : nullptr; }

 protected:
  static constexpr std::size_t kNoColumn = static_cast<std::size_t>(-1);

  LineTrace(LineReader lines, TraceReadOptions options) : lines_(std::move(lines)), options_(options) {}

  // The reader that found out the format has already taken this line; it comes first.
  void put_back(std::string line) { pending_ = std::move(line); }

  // Sets every field of `request` but its index. On a mistake: fail(…) and return false.
  virtual bool parse(std::string_view line, TraceRequest& request) = 0;

  // Always returns false, so that a parser can `return fail(…)`. `byte` counts from 0 within the line.
  bool fail(std::size_t byte, std::string key, std::string message);

 private:
  bool next_line(std::string_view& line);
  bool in_order(const TraceRequest& request);

  LineReader lines_;
  TraceReadOptions options_;
  std::optional<std::string> pending_;
  std::string current_;  // keeps the put-back line alive while it is parsed
  std::optional<Error> problem_, error_, first_dropped_;
  std::uint64_t count_ = 0, dropped_ = 0;
  SimTime last_;
  std::int64_t last_line_ = 0;
};

// One function per format; `first` is the file's first line that is not blank.
std::unique_ptr<TraceReader> make_jsonl_reader(LineReader lines, std::string first, TraceReadOptions options);
Result<std::unique_ptr<TraceReader>> make_azure_reader(LineReader lines, const std::string& header,
                                                       TraceReadOptions options);
Result<std::unique_ptr<TraceReader>> make_burstgpt_reader(LineReader lines, const std::string& header,
                                                          TraceReadOptions options);
Result<std::unique_ptr<TraceReader>> make_vllm_bench_reader(const std::string& path, const std::string& text);

// True for a `vllm bench serve` result: one JSON object that holds all requests in parallel lists.
bool looks_like_vllm_bench(std::string_view first_line);

}  // namespace orrery
