#include "workloads/readers/line_trace.h"

#include <utility>

#include "base/json.h"

namespace orrery {

namespace {

bool is_blank(std::string_view line) { return line.find_first_not_of(" \t\r") == std::string_view::npos; }

std::string seconds_text(SimTime time) { return format_nanoseconds_as_seconds(time.ns()) + " s"; }

}  // namespace

bool LineTrace::next(TraceRequest& request) {
  std::string_view line;
  while (!error_ && next_line(line)) {
    if (is_blank(line)) continue;
    problem_.reset();
    if (!parse(line, request)) {
      if (!options_.drop_invalid) {
        error_ = std::move(problem_);
        return false;
      }
      ++dropped_;
      if (!first_dropped_) first_dropped_ = std::move(problem_);
      continue;
    }
    if (!in_order(request)) return false;
    request.index = count_++;
    if (!request.images.empty())
      request.where = SourceLocation{lines_.path(), static_cast<int>(lines_.line_number()), 0};
    return true;
  }
  if (!error_ && lines_.error() != nullptr) error_ = *lines_.error();
  return false;
}

bool LineTrace::next_line(std::string_view& line) {
  if (!pending_) return lines_.next(line);
  current_ = std::move(*pending_);
  pending_.reset();
  line = current_;
  return true;
}

bool LineTrace::in_order(const TraceRequest& request) {
  if (count_ > 0 && request.arrival < last_ && !options_.allow_unsorted) {
    fail(kNoColumn, "timestamp",
         "time goes back: " + seconds_text(request.arrival) + " after " + seconds_text(last_) + " in line " +
             std::to_string(last_line_) +
             "; time stamps must not decrease. Sort the file with `orrery trace convert "
             "--sort IN OUT`");
    error_ = std::move(problem_);
    return false;
  }
  last_ = request.arrival;
  last_line_ = lines_.line_number();
  return true;
}

bool LineTrace::fail(std::size_t byte, std::string key, std::string message) {
  const int column = byte == kNoColumn ? 0 : static_cast<int>(byte) + 1;
  problem_ = invalid_input(std::move(message),
                           SourceLocation{lines_.path(), static_cast<int>(lines_.line_number()), column},
                           std::move(key));
  return false;
}

}  // namespace orrery
