// Text for people: nearest names, byte sizes, durations, aligned tables.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace orrery {

// " (did you mean \"h200\"?)" for the first of the nearest names when it is near enough (edits, a swap of
// neighbours being one: at most a third of the length, at least one), else "".
std::string did_you_mean(std::string_view given, const std::vector<std::string>& names);
std::string join(const std::vector<std::string>& parts, std::string_view separator);
std::string human_bytes(double bytes);      // "141.0 GB", decimal
std::string human_seconds(double seconds);  // "1.24 ms", "3.2 s", "2 h 5 min"
std::string human_count(double count);      // "12,345", "1.2 M"
std::string quote(std::string_view text);   // "\"…\"": control characters escaped, long text cut

// A table of text cells: first column left-aligned, others right-aligned, header underlined by dashes.
class TextTable {
 public:
  explicit TextTable(std::vector<std::string> header);
  void add(std::vector<std::string> row);
  std::string to_string() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// Progress on stderr, only when it is a terminal and not --quiet; at most ten updates a second.
class Progress {
 public:
  Progress(std::string what, std::uint64_t total, bool enabled);  // total 0 = unknown
  ~Progress();
  void update(std::uint64_t done);

 private:
  std::string what_;
  std::uint64_t total_;
  bool enabled_;
  double started_ = 0, last_ = 0;
};

}  // namespace orrery
