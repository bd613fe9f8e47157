#include "cli/commands/cost_text.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <vector>

#include "base/files.h"
#include "base/text.h"

namespace orrery {

namespace {

void append_microseconds(std::int64_t ns, std::string& out) {
  char buffer[24];
  if (ns < 0) {
    out += '-';
    ns = -ns;
  }
  out.append(buffer, std::to_chars(buffer, buffer + sizeof buffer, ns / 1000).ptr);
  const auto rest = static_cast<int>(ns % 1000);
  out += '.';
  out += static_cast<char>('0' + rest / 100);
  out += static_cast<char>('0' + rest / 10 % 10);
  out += static_cast<char>('0' + rest % 10);
}

std::string percent(std::int64_t part, std::int64_t whole) {
  return whole > 0 ? format_fixed(100.0 * static_cast<double>(part) / static_cast<double>(whole), 1) + " %"
                   : "";
}

// 1.23 G, 45.6 M: three digits are enough to see where work is.
std::string scaled(double value) {
  if (value == 0) return "-";
  const char* units[] = {"", " k", " M", " G", " T", " P"};
  std::size_t unit = 0;
  while (value >= 1000 && unit + 1 < std::size(units)) {
    value /= 1000;
    ++unit;
  }
  return format_fixed(value, value < 10 ? 2 : value < 100 ? 1 : 0) + units[unit];
}

std::string timing_lines(const StepBreakdown& step) {
  const StepTiming& t = step.timing;
  std::string out;
  out += "device " + microseconds_text(step.device_ns) + " µs, 90 % interval " +
         microseconds_text(step.low_ns) + " to " + microseconds_text(step.high_ns) + "; mostly " +
         step.bound + "\n";
  out += "host " + microseconds_text(step.host_ns) + " µs: schedule " + microseconds_text(t.schedule) +
         ", prepare " + microseconds_text(t.prepare) + ", launch " + microseconds_text(t.launch) +
         " (graph mode " + step.graph_mode + ", " + std::to_string(step.padded_tokens) +
         " tokens after padding), update " + microseconds_text(t.update) + "\n";
  out += "repeated for ever, one step takes " + microseconds_text(step.step_ns) + " µs\n";
  return out;
}

// Pipeline stages: each stage's part, and what stays idle.
std::string stage_lines(const StepBreakdown& step) {
  if (step.stages.empty()) return "";
  TextTable table({"pipeline stage", "layers", "busy µs", "hand-off µs", "launch µs"});
  for (const StageLine& s : step.stages) {
    const std::string last = s.stages > 1 ? "-" + std::to_string(s.first + s.stages - 1) : "";
    table.add({std::to_string(s.first) + last, std::to_string(s.layers), microseconds_text(s.busy_ns),
               microseconds_text(s.handoff_ns), microseconds_text(s.launch_ns)});
  }
  return table.to_string() +
         "busy adds up all stages; device is the way through them of a step alone. Steps of equal, "
         "disjoint batches leave a bubble of " +
         format_fixed(100 * step.bubble, 1) + " % of the stages' time\n";
}

}  // namespace

std::string microseconds_text(std::int64_t ns) {
  std::string out;
  append_microseconds(ns, out);
  return out;
}

std::string step_table(const std::string& title, const StepBreakdown& step) {
  TextTable table({"operator", "count", "FLOPs", "bytes", "link bytes", "time µs", "bound", "achieved",
                   "rung", "share", "shape"});
  for (const OpLine& line : step.ops) {
    table.add({line.name, std::to_string(line.count), scaled(line.flops), scaled(line.bytes),
               scaled(line.link_bytes), microseconds_text(line.time_ns), line.bound,
               line.achieved > 0 ? format_fixed(100 * line.achieved, 0) + " %" : "-", line.rung,
               percent(line.time_ns, step.timing.busy), line.shape});
  }
  table.add({"busy", "", "", "", "", microseconds_text(step.timing.busy), "", "", "", "100.0 %", ""});
  return title + "\n" + table.to_string() + stage_lines(step) + timing_lines(step);
}

std::string compare_table(const std::string& title, const std::string& name_a, const StepBreakdown& a,
                          const std::string& name_b, const StepBreakdown& b) {
  TextTable table({"operator", "A µs", "B µs", "B − A µs", "B ÷ A"});
  const auto add = [&](const std::string& name, std::int64_t ns_a, std::int64_t ns_b) {
    const std::string ratio =
        ns_a > 0 && ns_b > 0 ? format_fixed(static_cast<double>(ns_b) / static_cast<double>(ns_a), 3) : "";
    table.add(
        {name, microseconds_text(ns_a), microseconds_text(ns_b), microseconds_text(ns_b - ns_a), ratio});
  };
  const auto find = [](const StepBreakdown& step, const std::string& name) {
    return std::find_if(step.ops.begin(), step.ops.end(),
                        [&](const OpLine& line) { return line.name == name; });
  };
  for (const OpLine& line : a.ops) {
    const auto other = find(b, line.name);
    add(line.name, line.time_ns, other == b.ops.end() ? 0 : other->time_ns);
  }
  for (const OpLine& line : b.ops) {
    if (find(a, line.name) == a.ops.end()) add(line.name, 0, line.time_ns);
  }
  add("busy", a.timing.busy, b.timing.busy);
  add("device", a.device_ns, b.device_ns);
  add("host", a.host_ns, b.host_ns);
  add("step", a.step_ns, b.step_ns);
  return title + "\nA = " + name_a + "\nB = " + name_b + "\n" + table.to_string();
}

std::string instance_line(const InstanceSpec& instance) {
  return instance.model.name + " (" + to_string(instance.model.quantization) + ") on " +
         std::to_string(instance.plan.gpus() * instance.engines) + " × " + instance.hardware.name + ", " +
         instance.engine.name;
}

Json step_json(const std::string& spec, const StepBreakdown& step) {
  const auto us = [](std::int64_t ns) { return static_cast<double>(ns) / 1000; };
  Json ops = Json::array();
  for (const OpLine& line : step.ops) {
    ops.push_back({{"operator", line.name},
                   {"class", to_string(line.op_class)},
                   {"shape", line.shape},
                   {"count", line.count},
                   {"flops", line.flops},
                   {"bytes", line.bytes},
                   {"link_bytes", line.link_bytes},
                   {"time_us", us(line.time_ns)},
                   {"bound", line.bound},
                   {"share", static_cast<double>(line.time_ns) / static_cast<double>(step.timing.busy)},
                   {"achieved_fraction", line.achieved},
                   {"intensity_flops_per_byte", line.bytes > 0 ? line.flops / line.bytes : 0},
                   {"rung", line.rung},
                   {"hit", line.hit}});
  }
  const StepTiming& t = step.timing;
  Json json = {{"step", spec},
               {"device_us", us(step.device_ns)},
               {"busy_us", us(t.busy)},
               {"host_us", us(step.host_ns)},
               {"step_us", us(step.step_ns)},
               {"low_us", us(step.low_ns)},
               {"high_us", us(step.high_ns)},
               {"bound", step.bound},
               {"graph_mode", step.graph_mode},
               {"padded_tokens", step.padded_tokens},
               {"host",
                {{"schedule_us", us(t.schedule)},
                 {"prepare_us", us(t.prepare)},
                 {"launch_us", us(t.launch)},
                 {"copy_us", us(t.copy)},
                 {"update_us", us(t.update)},
                 {"gap_us", us(t.gap)}}},
               {"operators", ops}};
  if (step.stages.empty()) return json;
  Json stages = Json::array();
  for (const StageLine& s : step.stages) {
    stages.push_back({{"first", s.first},
                      {"stages", s.stages},
                      {"layers", s.layers},
                      {"busy_us", us(s.busy_ns)},
                      {"handoff_us", us(s.handoff_ns)},
                      {"launch_us", us(s.launch_ns)}});
  }
  json["pipeline"] = {{"stages", stages}, {"bubble", step.bubble}};
  return json;
}

Json memory_json(const MemoryPlan& plan, double deviations) {
  const KvInterval interval = kv_interval(plan, deviations);
  return {{"total_bytes", plan.total.value()},
          {"requested_bytes", plan.requested.value()},
          {"weights_bytes", plan.weights.value()},
          {"activation_peak_bytes", plan.activation_peak.value()},
          {"graphs_bytes", plan.graphs.value()},
          {"residue_bytes", plan.residue.value()},
          {"kv_available_bytes", plan.kv_available.value()},
          {"kv_bytes_per_token", plan.kv_bytes_per_token.value()},
          {"block_size", plan.block_size},
          {"kv_blocks", plan.kv_blocks},
          {"kv_tokens", plan.kv_tokens()},
          {"kv_deviation_bytes", plan.kv_deviation.value()},
          {"kv_blocks_interval_90", {interval.low, interval.high}},
          {"blocks_overridden", plan.blocks_overridden}};
}

namespace {

std::vector<std::string> cells_of(std::string_view line) {
  std::vector<std::string> cells;
  for (std::size_t from = 0; from <= line.size();) {
    const std::size_t comma = std::min(line.find(',', from), line.size());
    cells.emplace_back(line.substr(from, comma - from));
    from = comma + 1;
  }
  return cells;
}

// Numbers stay numbers; our tables quote nothing.
Json csv_as_json(std::string_view csv) {
  Json rows = Json::array();
  std::vector<std::string> names;
  while (!csv.empty()) {
    const std::size_t end = std::min(csv.find('\n'), csv.size());
    const std::vector<std::string> cells = cells_of(csv.substr(0, end));
    csv.remove_prefix(std::min(end + 1, csv.size()));
    if (names.empty()) {
      names = cells;
      continue;
    }
    Json row = Json::object();
    for (std::size_t i = 0; i < names.size() && i < cells.size(); ++i) {
      double number = 0;
      const char* last = cells[i].data() + cells[i].size();
      const auto parsed = std::from_chars(cells[i].data(), last, number);
      const bool is_number = parsed.ec == std::errc() && parsed.ptr == last;
      row[names[i]] = is_number ? Json(number) : Json(cells[i]);
    }
    rows.push_back(std::move(row));
  }
  return rows;
}

}  // namespace

int put_csv(const std::string& csv, const std::string& path, const CommandContext& context) {
  if (path.empty()) {
    const std::string text = context.json ? canonical_json(csv_as_json(csv)) : csv;
    std::fwrite(text.data(), 1, text.size(), stdout);
    return 0;
  }
  const Status written = write_file_atomically(path, csv);
  return written.ok() ? 0 : report_errors(written.errors());
}

void append_step_csv(std::int64_t row, const StepSummary& step, std::string& out) {
  char buffer[24];
  out.append(buffer, std::to_chars(buffer, buffer + sizeof buffer, row).ptr);
  for (const std::int64_t ns :
       {step.device_ns, step.timing.busy, step.host_ns, step.step_ns, step.low_ns, step.high_ns}) {
    out += ',';
    append_microseconds(ns, out);
  }
  out += ',';
  out += step.bound;
  out += '\n';
}

}  // namespace orrery
