#include "calibrate/tables.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <set>

#include "base/files.h"
#include "base/json.h"
#include "base/text.h"

namespace orrery::calibrate {

namespace {

struct RowLess {
  bool operator()(const std::string& a, const std::string& b) const { return row_less(a, b); }
};
using Rows = std::map<std::string, const Measurement*, RowLess>;

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const std::size_t n = values.size();
  return n % 2 == 1 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

std::string row_text(const Measurement& m) {
  if (!m.unit.empty()) return m.shape + "," + nine_digits(m.value) + "," + m.unit + "\n";
  return m.shape + "," + nine_digits(m.us) + "," + nine_digits(m.spread) + "," + m.kernel + "\n";
}

std::string yaml_text(const std::string& text) {
  return Json(text).dump(-1, ' ', false, Json::error_handler_t::replace);
}

struct Clocks {
  std::vector<double> sm, memory, power;
  double hottest = 0;
};

std::string clocks_yaml(const Journal& journal) {
  Clocks c;
  for (const Measurement& m : journal.points) {
    if (!m.telemetry || !has_figure(m.state)) continue;
    c.sm.push_back(m.sm_mhz);
    c.memory.push_back(m.memory_mhz);
    c.power.push_back(m.power_w);
    c.hottest = std::max(c.hottest, m.temperature_c);
  }
  if (c.sm.empty()) return "clocks: null  # no telemetry on this machine: nothing could be rejected\n";
  return "clocks:\n  sm_mhz_median: " + format_number(median_of(c.sm)) +
         "\n  memory_mhz: " + format_number(median_of(c.memory)) +
         "\n  power_w_median: " + format_number(median_of(c.power)) +
         "\n  temperature_c_max: " + format_number(c.hottest) + "\n";
}

std::string device_yaml(const JournalHeader& h) {
  std::string text = "device:\n  name: " + yaml_text(h.device.name) +
                     "\n  uuid: " + yaml_text(h.device.uuid) + "\n  driver: " + yaml_text(h.device.driver) +
                     "\n  runtime: " + yaml_text(h.device.runtime) +
                     "\n  compute_units: " + std::to_string(h.device.compute_units) +
                     "\n  memory_bytes: " + std::to_string(h.device.memory_bytes) +
                     "\n  l2_bytes: " + std::to_string(h.device.l2_bytes) + "\n";
  text += h.libraries.empty() ? "libraries: {}\n" : "libraries:\n";
  for (const auto& [name, version] : h.libraries)
    text += "  " + yaml_text(name) + ": " + yaml_text(version) + "\n";
  return text;
}

// What a table says of each of its operators.
struct OperatorCounts {
  std::set<std::string> kernels;
  std::size_t points = 0, rejected = 0, unconverged = 0;
};

std::string operator_of(const Measurement& m) {
  const bool many = m.table == "elementwise" || m.table == "collectives" || m.table == "probes";
  return many ? m.shape.substr(0, m.shape.find_first_of(",.")) : m.table;
}

std::string operators_yaml(const std::map<std::string, Rows>& tables) {
  std::map<std::string, OperatorCounts> operators;
  for (const auto& [table, rows] : tables) {
    for (const auto& [shape, m] : rows) {
      OperatorCounts& o = operators[operator_of(*m)];
      o.rejected += m->state == PointState::rejected ? 1 : 0;
      o.unconverged += m->state == PointState::unconverged ? 1 : 0;
      if (!has_figure(m->state)) continue;
      ++o.points;
      o.kernels.insert(m->kernel);
    }
  }
  std::string text = operators.empty() ? "operators: {}\n" : "operators:\n";
  for (const auto& [name, o] : operators) {
    std::vector<std::string> ids;
    for (const std::string& kernel : o.kernels) ids.push_back(yaml_text(kernel));
    text += "  " + name + ":\n    kernels: [" + join(ids, ", ") +
            "]\n    points: " + std::to_string(o.points) + "\n    rejected: " + std::to_string(o.rejected) +
            "\n    unconverged: " + std::to_string(o.unconverged) + "\n";
  }
  return text;
}

std::string table_yaml(const Journal& journal, const std::map<std::string, Rows>& tables) {
  const JournalHeader& h = journal.header;
  double drift = 0, first = 0;
  for (const JournalEvent& event : journal.events) {
    if (event.kind == "session") first = 0;
    if (event.kind != "sentinel" || !(event.value > 0)) continue;
    if (first == 0) first = event.value;
    drift = std::max(drift, std::abs(event.value / first - 1));
  }
  const std::string source = "orrery calibrate (Orrery " + h.version + ") on " + h.device.name;
  return "hardware: " + h.hardware + "\nkernels: " + h.kernels +
         "\nkind: measured\nsource: " + yaml_text(source) + "\ndate: " + yaml_text(h.date) + "\n" +
         device_yaml(h) + clocks_yaml(journal) + "budget: " + yaml_text(h.budget) +
         "\nsentinel_drift: " + format_fixed(drift, 4) + "\n" + operators_yaml(tables);
}

}  // namespace

std::string nine_digits(double value) {
  char buffer[40];
  std::snprintf(buffer, sizeof buffer, "%.9g", value);
  return buffer;
}

bool row_less(const std::string& a, const std::string& b) {
  std::size_t i = 0, j = 0;
  while (i <= a.size() && j <= b.size()) {
    const std::size_t a_end = std::min(a.find_first_of(", @", i), a.size());
    const std::size_t b_end = std::min(b.find_first_of(", @", j), b.size());
    std::int64_t x = 0, y = 0;
    const char *a_stop = a.data() + a_end, *b_stop = b.data() + b_end;
    const auto number_a = std::from_chars(a.data() + i, a_stop, x);
    const auto number_b = std::from_chars(b.data() + j, b_stop, y);
    const bool numbers = number_a.ec == std::errc() && number_a.ptr == a_stop && number_b.ec == std::errc() &&
                         number_b.ptr == b_stop;
    if (numbers && x != y) return x < y;
    const int order = a.compare(i, a_end - i, b, j, b_end - j);
    if (!numbers && order != 0) return order < 0;
    i = a_end + 1;
    j = b_end + 1;
  }
  return a < b;
}

std::map<std::string, std::string> table_files(const Journal& journal) {
  std::map<std::string, Rows> tables;
  for (const Measurement& m : journal.points) tables[m.table][m.shape] = &m;
  std::map<std::string, std::string> files;
  for (const TableEntry& entry : table_entries()) {
    const auto found = tables.find(entry.name);
    if (found == tables.end()) continue;
    std::string text;
    for (const auto& [shape, m] : found->second) {
      if (has_figure(m->state)) text += row_text(*m);
    }
    if (text.empty()) continue;
    files[std::string(entry.name) + ".csv"] = std::string(entry.columns) + "," + entry.figures + "\n" + text;
  }
  files["table.yaml"] = table_yaml(journal, tables);
  return files;
}

Status write_tables(const Journal& journal, const std::string& directory) {
  ORRERY_TRY(folder, AtomicDirectory::create(directory));
  for (const auto& [name, text] : table_files(journal))
    ORRERY_TRY_STATUS(write_file_atomically(folder.file(name), text));
  return folder.commit();
}

}  // namespace orrery::calibrate
