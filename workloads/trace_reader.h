// Trace files: which format a file has is decided by its content, never by its name.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "base/result.h"
#include "workloads/request_source.h"

namespace orrery {

struct TraceReadOptions {
  bool drop_invalid = false;    // leave out rows that break a rule, counting them, instead of stopping
  bool allow_unsorted = false;  // accept time stamps that decrease (for `orrery trace convert --sort`)
};

// A source that reads a file. Arrivals are the file's, or for formats with calendar time (Azure, BurstGPT)
// counted from the first row.
class TraceReader : public RequestSource {
 public:
  virtual std::uint64_t dropped() const { return 0; }             // rows left out so far
  virtual const Error* first_dropped() const { return nullptr; }  // why the first of them was
  virtual const char* format() const = 0;                         // "Orrery JSON Lines", "Azure CSV", …
};

// Formats: Orrery and Mooncake JSON Lines, Azure 2023 and 2024 CSV, BurstGPT CSV (six and eight columns),
// `vllm bench serve` result JSON; each plain, .gz or .zst. Errors: missing file, directory, no known format.
Result<std::unique_ptr<TraceReader>> open_trace(const std::string& path, TraceReadOptions options = {});

// A prompt and its answer together must fit an int32 with room to spare.
inline constexpr std::int64_t kMaxTokens = 1'000'000'000;

// Milliseconds beyond which a time stamp is taken for a mistake: about 63 years, below the clock's 2^62 ns.
inline constexpr double kMaxTimestampMs = 2e12;

}  // namespace orrery
