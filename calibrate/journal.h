// What a calibration has found so far: an append-only file of JSON lines, so that an interrupted session
// loses at most the point in hand, and the tables are a function of the file and nothing else.
#pragma once

#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "base/result.h"
#include "calibrate/measure.h"

namespace orrery::calibrate {

// Who measured what with which software. First line of a journal.
struct JournalHeader {
  std::string hardware, kernels = "orrery", date, version;
  std::string budget = "none";
  kernels::DeviceInfo device;
  std::vector<std::pair<std::string, std::string>> libraries;
};

// Something that happened between points: a sentinel reading, a drift, a resumption.
struct JournalEvent {
  std::string kind;  // "sentinel", "drift", "resumed", "unsupported"
  std::string text;
  double value = 0;  // sentinel: microseconds
};

struct Journal {
  JournalHeader header;
  std::vector<Measurement> points;  // in the order of measuring; a later one of the same key replaces
  std::vector<JournalEvent> events;
};

Json header_json(const JournalHeader& header);
Json measurement_json(const Measurement& m);

// An incomplete last line (the process was killed while writing it) is dropped; any other damage is an error
// with its line. `used_bytes`, when asked for, is where the complete lines end.
Result<Journal> read_journal(const std::string& path, std::uint64_t* used_bytes = nullptr);
Result<Journal> parse_journal(const std::string& text, const std::string& name,
                              std::uint64_t* used_bytes = nullptr);

// Empty when `now` may continue what `then` began; else what differs and what to do.
std::string mismatch(const JournalHeader& then, const JournalHeader& now, bool same_part_suffices);

class JournalWriter {
 public:
  // A new file with its header; refuses an existing one.
  static Result<JournalWriter> create(const std::string& path, const JournalHeader& header);
  // Continues behind the complete lines.
  static Result<JournalWriter> append(const std::string& path, std::uint64_t used_bytes);
  Status add(const Measurement& m, double now);  // flushed; on the disk at least once a second
  Status add(const JournalEvent& event, double now);
  Status add(const Json& line, double now) { return write(line, now); }  // of another kind of journal
  Status sync();

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  JournalWriter(std::string path, std::FILE* file) : path_(std::move(path)), file_(file) {}
  Status write(const Json& line, double now);
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
  double synced_ = -1e300;
};

}  // namespace orrery::calibrate
