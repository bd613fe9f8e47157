#include "calibrate/journal.h"

#include <fcntl.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "base/files.h"
#include "base/text.h"

namespace orrery::calibrate {

namespace {

constexpr int format_version = 1;

// Fields of a line, checked; the first problem is kept.
class Line {
 public:
  Line(const Json& object, SourceLocation where) : object_(object), where_(std::move(where)) {}
  std::string text(const char* key) {
    if (object_.contains(key) && object_[key].is_string()) return object_[key].get<std::string>();
    fail(key, "must be text");
    return "";
  }
  double number(const char* key, double low = 0) {
    if (object_.contains(key) && object_[key].is_number()) {
      const double value = object_[key].get<double>();
      if (std::isfinite(value) && value >= low) return value;
    }
    fail(key, "must be a number of at least " + format_number(low));
    return low;
  }
  std::uint64_t whole(const char* key) {
    if (object_.contains(key) && object_[key].is_number_unsigned()) return object_[key].get<std::uint64_t>();
    fail(key, "must be a whole number");
    return 0;
  }
  std::vector<std::pair<std::string, double>> numbers(const char* key) {
    std::vector<std::pair<std::string, double>> out;
    bool good = object_[key].is_object();
    for (const auto& item : object_[key].items()) {
      good = good && item.value().is_number();
      if (good) out.emplace_back(item.key(), item.value().get<double>());
    }
    if (!good) fail(key, "must be an object of numbers");
    return out;
  }
  bool has(const char* key) const { return object_.contains(key); }
  void fail(const std::string& key, const std::string& message) {
    errors.push_back(invalid_input(message, where_, key));
  }
  Errors errors;

 private:
  const Json& object_;
  SourceLocation where_;
};

constexpr std::array states{PointState::ok, PointState::unconverged, PointState::rejected, PointState::failed,
                            PointState::unsupported};

Measurement read_measurement(Line& line) {
  Measurement m;
  m.table = line.text("table");
  m.shape = line.text("shape");
  if (find_table(m.table) == nullptr) line.fail("table", "no such table: " + quote(m.table));
  if (m.shape.find_first_of("\"\n\r") != std::string::npos) line.fail("shape", "must be columns of a row");
  m.kernel = line.text("kernel");
  if (m.kernel.find_first_of(",\"\n\r") != std::string::npos) line.fail("kernel", "must be a plain word");
  const std::string state = line.text("state");
  bool known = false;
  for (const PointState s : states) {
    if (state != to_string(s)) continue;
    m.state = s;
    known = true;
  }
  if (!known) line.fail("state", "unknown state " + quote(state));
  if (line.has("why")) m.why = line.text("why");
  if (line.has("unit")) {
    m.unit = line.text("unit");
    m.value = line.number("value");
    if (m.table != "probes") line.fail("unit", "only probes have one");
  } else if (has_figure(m.state)) {
    m.us = line.number("us");
    m.spread = line.number("spread");
    m.samples = static_cast<std::int64_t>(line.whole("samples"));
    if (!(m.us > 0)) line.fail("us", "must be positive");
    if (line.has("slower")) m.slower = line.numbers("slower");
  }
  if (line.has("prepare_ms")) m.prepare_ms = line.number("prepare_ms");
  if (line.has("run_ms")) m.run_ms = line.number("run_ms");
  m.telemetry = line.has("sm_mhz");
  if (!m.telemetry) return m;
  m.sm_mhz = line.number("sm_mhz");
  m.memory_mhz = line.number("memory_mhz");
  m.power_w = line.number("power_w");
  m.temperature_c = line.number("temperature_c", -273);
  m.throttle_reasons = line.whole("throttle_reasons");
  return m;
}

JournalHeader read_header(const Json& object, const SourceLocation& where, Errors& errors) {
  Line line(object, where);
  JournalHeader h;
  if (!object.contains("orrery_calibration") || object["orrery_calibration"] != format_version) {
    line.fail("orrery_calibration", "the first line of a calibration journal of version 1 was expected");
    errors = line.errors;
    return h;
  }
  h.hardware = line.text("hardware");
  h.kernels = line.text("kernels");
  h.date = line.text("date");
  h.version = line.text("version");
  h.budget = line.text("budget");
  if (object.contains("device") && object["device"].is_object()) {
    Line device(object["device"], where);
    h.device.name = device.text("name");
    h.device.uuid = device.text("uuid");
    h.device.architecture = device.text("architecture");
    h.device.driver = device.text("driver");
    h.device.runtime = device.text("runtime");
    h.device.compute_units = static_cast<std::int32_t>(device.number("compute_units"));
    h.device.memory_bytes = device.whole("memory_bytes");
    h.device.l2_bytes = device.whole("l2_bytes");
    line.errors.insert(line.errors.end(), device.errors.begin(), device.errors.end());
  } else {
    line.fail("device", "must describe the device");
  }
  if (object.contains("libraries") && object["libraries"].is_object()) {
    for (const auto& item : object["libraries"].items()) {
      if (item.value().is_string())
        h.libraries.emplace_back(item.key(), item.value().get<std::string>());
      else
        line.fail("libraries." + item.key(), "must be text");
    }
  }
  errors = line.errors;
  return h;
}

void read_line(const Json& object, const SourceLocation& where, Journal& journal, Errors& errors) {
  Line line(object, where);
  if (object.is_object() && object.contains("event")) {
    JournalEvent event;
    event.kind = line.text("event");
    event.text = line.text("text");
    event.value = line.number("value");
    journal.events.push_back(std::move(event));
  } else if (object.is_object()) {
    journal.points.push_back(read_measurement(line));
  } else {
    line.fail("", "an object was expected");
  }
  errors.insert(errors.end(), line.errors.begin(), line.errors.end());
}

Error cannot_write(const std::string& path) {
  return invalid_input(std::string("cannot be written: ") + std::strerror(errno), {path, 0, 0});
}

}  // namespace

Json header_json(const JournalHeader& h) {
  Json libraries = Json::object();
  for (const auto& [name, version] : h.libraries) libraries[name] = version;
  return {{"orrery_calibration", format_version},
          {"hardware", h.hardware},
          {"kernels", h.kernels},
          {"date", h.date},
          {"version", h.version},
          {"budget", h.budget},
          {"device",
           {{"name", h.device.name},
            {"uuid", h.device.uuid},
            {"architecture", h.device.architecture},
            {"driver", h.device.driver},
            {"runtime", h.device.runtime},
            {"compute_units", h.device.compute_units},
            {"memory_bytes", h.device.memory_bytes},
            {"l2_bytes", h.device.l2_bytes}}},
          {"libraries", libraries}};
}

Json measurement_json(const Measurement& m) {
  Json line{{"table", m.table}, {"shape", m.shape}, {"kernel", m.kernel}, {"state", to_string(m.state)}};
  if (!m.unit.empty()) {
    line["value"] = m.value;
    line["unit"] = m.unit;
  } else if (has_figure(m.state)) {
    line["us"] = m.us;
    line["spread"] = m.spread;
    line["samples"] = m.samples;
    for (const auto& [kernel, us] : m.slower) line["slower"][kernel] = us;
  }
  if (!m.why.empty()) line["why"] = m.why;
  if (m.run_ms > 0) {
    line["prepare_ms"] = std::round(10 * m.prepare_ms) / 10;
    line["run_ms"] = std::round(10 * m.run_ms) / 10;
  }
  if (!m.telemetry) return line;
  line["sm_mhz"] = m.sm_mhz;
  line["memory_mhz"] = m.memory_mhz;
  line["power_w"] = m.power_w;
  line["temperature_c"] = m.temperature_c;
  line["throttle_reasons"] = m.throttle_reasons;
  return line;
}

Result<Journal> parse_journal(const std::string& text, const std::string& name, std::uint64_t* used_bytes) {
  Journal journal;
  Errors errors;
  std::size_t from = 0;
  int line = 0;
  while (from < text.size() && errors.size() < 20) {
    const std::size_t end = text.find('\n', from);
    if (end == std::string::npos) break;  // cut off while it was written: that point is measured again
    ++line;
    const SourceLocation where{name, line, 0};
    auto object = parse_json(text.substr(from, end - from), name);
    from = end + 1;
    if (!object.ok()) {
      for (Error error : object.errors()) {
        error.where.line = line;
        errors.push_back(std::move(error));
      }
    } else if (line == 1) {
      if (object->is_object())
        journal.header = read_header(*object, where, errors);
      else
        errors.push_back(invalid_input("not a calibration journal", where));
      if (!errors.empty()) break;
    } else {
      read_line(*object, where, journal, errors);
    }
  }
  if (line == 0) errors.push_back(invalid_input("is empty: not a calibration journal", {name, 0, 0}));
  if (!errors.empty()) return errors;
  if (used_bytes != nullptr) *used_bytes = from;
  return journal;
}

Result<Journal> read_journal(const std::string& path, std::uint64_t* used_bytes) {
  ORRERY_TRY(text, read_text_file(path, std::uint64_t{1} << 30));
  return parse_journal(text, path, used_bytes);
}

std::string mismatch(const JournalHeader& then, const JournalHeader& now, bool same_part_suffices) {
  const auto differs = [](const char* what, const std::string& a, const std::string& b) {
    return std::string("was begun with ") + what + " " + quote(a) + ", this is " + quote(b) +
           "; use another --out, or leave out --resume and remove the journal";
  };
  const kernels::DeviceInfo &a = then.device, &b = now.device;
  if (then.hardware != now.hardware) return differs("hardware", then.hardware, now.hardware);
  if (a.name != b.name) return differs("device", a.name, b.name);
  if (a.driver != b.driver) return differs("driver", a.driver, b.driver);
  if (a.runtime != b.runtime) return differs("runtime", a.runtime, b.runtime);
  if (then.libraries != now.libraries) return "was begun with other library versions; use another --out";
  if (a.uuid != b.uuid && !same_part_suffices) {
    return differs("the card", a.uuid, b.uuid) + "; --any-card continues on another card of the same name";
  }
  return "";
}

Result<JournalWriter> JournalWriter::create(const std::string& path, const JournalHeader& header) {
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
  if (descriptor < 0 && errno == EEXIST) {
    return invalid_input("exists: continue it with --resume, or choose another --out", {path, 0, 0});
  }
  if (descriptor < 0) return cannot_write(path);
  JournalWriter writer(path, ::fdopen(descriptor, "wb"));
  ORRERY_TRY_STATUS(writer.write(header_json(header), 0));
  return writer;
}

Result<JournalWriter> JournalWriter::append(const std::string& path, std::uint64_t used_bytes) {
  if (::truncate(path.c_str(), static_cast<off_t>(used_bytes)) != 0) return cannot_write(path);
  const int descriptor = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  if (descriptor < 0) return cannot_write(path);
  return JournalWriter(path, ::fdopen(descriptor, "ab"));
}

Status JournalWriter::write(const Json& line, double now) {
  const std::string text = line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
  if (std::fwrite(text.data(), 1, text.size(), file_.get()) != text.size()) return cannot_write(path_);
  if (std::fflush(file_.get()) != 0) return cannot_write(path_);
  if (now - synced_ < 1) return ok_status();
  synced_ = now;
  return sync();
}

Status JournalWriter::sync() {
  if (std::fflush(file_.get()) != 0) return cannot_write(path_);
  if (::fsync(::fileno(file_.get())) != 0 && errno != EINVAL) return cannot_write(path_);
  return ok_status();
}

Status JournalWriter::add(const Measurement& m, double now) { return write(measurement_json(m), now); }
Status JournalWriter::add(const JournalEvent& e, double now) {
  return write({{"event", e.kind}, {"text", e.text}, {"value", e.value}}, now);
}

}  // namespace orrery::calibrate
