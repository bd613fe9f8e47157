// Writes Orrery's JSON Lines; the file appears only when it is complete.
#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "workloads/request_source.h"

namespace orrery {

class TraceWriter {
 public:
  // Compresses when `path` ends in .gz or .zst. Equal requests give equal bytes.
  static Result<TraceWriter> create(const std::string& path);
  TraceWriter(TraceWriter&&) noexcept;
  TraceWriter& operator=(TraceWriter&&) noexcept;
  ~TraceWriter();
  void add(const TraceRequest& request);
  Status commit();

 private:
  struct State;
  explicit TraceWriter(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// One line, without its end. Keys that have their default are left out.
void append_trace_line(std::string& text, const TraceRequest& request);

}  // namespace orrery
