#include "live/measurement.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

#include "base/files.h"
#include "base/json.h"
#include "live/endpoint_comparison.h"

namespace orrery {

namespace {

constexpr std::size_t columns = 10;
using Row = std::array<std::string, columns>;

bool split_row(const std::string& line, Row& row) {
  std::size_t at = 0;
  for (std::size_t i = 0; i < columns; ++i) {
    const std::size_t end = std::min(line.find(',', at), line.size());
    if (i > 0 && at > line.size()) return false;
    row[i] = line.substr(at, end - at);
    at = end + 1;
  }
  return at == line.size() + 1;
}

bool whole(const std::string& text, std::int64_t& value) {
  const auto parsed = std::from_chars(text.data(), text.data() + text.size(), value);
  return parsed.ec == std::errc() && parsed.ptr == text.data() + text.size();
}

// A hundred years: differences and sums of such stay far from the largest nanosecond.
constexpr std::int64_t most_seconds = 3'155'760'000;
constexpr std::int64_t most_tokens = 1'000'000'000;

// Seconds with nine digits behind the point, exactly.
bool nanoseconds(const std::string& text, std::int64_t& value) {
  const std::size_t point = text.find('.');
  std::int64_t seconds = 0, rest = 0;
  if (point == std::string::npos || text.size() - point != 10) return false;
  if (!whole(text.substr(0, point), seconds) || !whole(text.substr(point + 1), rest) || rest < 0 ||
      seconds < -most_seconds || seconds > most_seconds)
    return false;
  value = seconds * 1'000'000'000 + (text[0] == '-' ? -rest : rest);
  return true;
}

bool status_of(const std::string& text, RequestStatus& status) {
  for (const RequestStatus s : {RequestStatus::completed, RequestStatus::failed, RequestStatus::cancelled,
                                RequestStatus::timed_out, RequestStatus::rejected}) {
    if (text == to_string(s)) {
      status = s;
      return true;
    }
  }
  return false;
}

bool count(const std::string& text, std::int64_t& value) {
  return whole(text, value) && value >= 0 && value <= most_tokens;
}

bool record_of(const Row& row, EndpointRecord& r) {
  std::int64_t request = 0, tries = 0, ttft = 0, e2e = 0;
  if (!whole(row[0], request) || request < 0 || !nanoseconds(row[1], r.intended) ||
      !nanoseconds(row[2], r.sent) || (!row[3].empty() && !nanoseconds(row[3], ttft)) ||
      (!row[4].empty() && !nanoseconds(row[4], e2e)) || !count(row[5], r.prompt_tokens) ||
      !count(row[6], r.output_tokens) || !count(row[7], r.events) || !count(row[8], tries) ||
      !status_of(row[9], r.status))
    return false;
  // Nobody is answered before he asks, and an answer does not end before it begins.
  if (r.intended < 0 || ttft < 0 || e2e < 0 || (!row[3].empty() && !row[4].empty() && e2e < ttft))
    return false;
  if (r.status == RequestStatus::completed && (row[3].empty() || row[4].empty())) return false;
  r.request = static_cast<std::uint64_t>(request);
  r.tries = static_cast<int>(tries);
  r.first = row[3].empty() ? -1 : r.intended + ttft;
  r.last = row[4].empty() ? -1 : r.intended + e2e;
  return true;
}

// What is missing, or of another type than it was written with, is nothing; nlohmann's value() would throw.
Json part(const Json& json, const char* name) {
  const auto found = json.is_object() ? json.find(name) : json.end();
  return json.is_object() && found != json.end() ? *found : Json();
}

// Of a size that any integer takes.
double number(const Json& json, const char* name) {
  const Json found = part(json, name);
  return found.is_number() ? std::clamp(found.get<double>(), -1e12, 1e12) : 0;
}

std::string text_of(const Json& json, const char* name) {
  const Json found = part(json, name);
  return found.is_string() ? found.get<std::string>() : "";
}

std::int64_t ns(double ms) { return std::llround(ms * 1e6); }

Distribution client_delay(const Json& json) {
  Distribution d;
  d.count = 1;
  d.mean = number(json, "mean") * 1e6;
  d.p50 = ns(number(json, "p50"));
  d.p99 = ns(number(json, "p99"));
  d.max = ns(number(json, "max"));
  return d;
}

// What no row has.
void read_comparison(const Json& json, EndpointRun& run) {
  const auto measured = [&](const char* metric) { return number(part(json, metric), "measured"); };
  run.itl.mean = measured("itl_ms.mean") * 1e6;
  run.itl.p50 = ns(measured("itl_ms.p50"));
  run.itl.p99 = ns(measured("itl_ms.p99"));
  run.itl.count = run.itl.mean > 0 ? 1 : 0;
  run.kv_blocks = std::llround(measured("kv_cache.blocks"));
  const Json client = part(json, "client"), server = part(json, "server");
  run.lateness = client_delay(part(client, "lateness_ms"));
  run.loop_lag = client_delay(part(client, "loop_lag_ms"));
  run.model = text_of(server, "model");
  run.text_prompts = text_of(client, "prompts") == "text";
  const auto count = [](const Json& from, const char* name) {
    return static_cast<std::uint64_t>(std::max(0.0, number(from, name)));
  };
  run.connections = count(client, "connections");
  run.most_streams = count(client, "most_streams");
  run.retried = count(server, "retried");
  run.refused_429 = count(server, "http_429");
  run.refused_5xx = count(server, "http_5xx");
  run.other_status = count(server, "http_other");
  run.no_connection = count(server, "no_connection");
  run.half_open = count(server, "half_open");
  run.cut = count(server, "cut");
  run.malformed = count(server, "malformed");
  run.surplus_events = count(server, "surplus_events");
  const Json states = part(server, "metrics");
  for (const Json& s : states.is_array() ? states : Json::array())
    run.scrapes.push_back(
        {number(s, "at_s"), number(s, "running"), number(s, "waiting"), number(s, "kv_usage")});
}

}  // namespace

Result<EndpointRun> read_measurement(const std::string& folder, RequestSource& source) {
  const std::string rows = folder + "/measured.csv", file = folder + "/comparison.json";
  ORRERY_TRY(json, load_json(file));
  if (!json.is_object()) return invalid_input("is no comparison: expected a map", {file, 0, 0});
  ORRERY_TRY(text, read_text_file(rows));
  EndpointRun run;
  read_comparison(json, run);
  int line_number = 0;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find('\n', at), text.size());
    const std::string line = text.substr(at, end - at);
    at = end + 1;
    ++line_number;
    const SourceLocation where{rows, line_number, 1};
    if (line_number == 1) {
      if (line + "\n" != measured_csv_header)
        return invalid_input("has other columns than measured.csv", where);
      continue;
    }
    Row row;
    EndpointRecord record;
    if (!split_row(line, row) || !record_of(row, record))
      return invalid_input("is no row of measured.csv: expected " + std::string(measured_csv_header), where);
    TraceRequest request;
    if (!source.next(request)) {
      if (source.error() != nullptr) return *source.error();
      return invalid_input("is of another workload: the scenario's ends before", where);
    }
    if (record.request != request.index ||
        (record.status == RequestStatus::completed && record.output_tokens != request.output_tokens))
      return invalid_input("is of another workload: the scenario's request " + std::to_string(request.index) +
                               " has " + std::to_string(request.output_tokens) + " output tokens",
                           where);
    run.duration_s = std::max(run.duration_s, static_cast<double>(record.last) * 1e-9);
    run.records.push_back(std::move(record));
    run.requests.push_back(std::move(request));
  }
  return run;
}

}  // namespace orrery
