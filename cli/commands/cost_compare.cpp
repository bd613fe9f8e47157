#include "cli/commands/cost_compare.h"

#include <algorithm>
#include <vector>

#include "base/text.h"
#include "cli/interrupt.h"
#include "sim/costed/run.h"

namespace orrery {

namespace {

// Milliseconds and seconds from nanoseconds, rates per second.
struct Metric {
  std::string name;
  double a = 0, b = 0;
  int decimals = 2;
};

double seconds_of(const RunResult& r) { return (r.last_finish - r.measured_from).seconds(); }

double rate(double count, double seconds) { return seconds > 0 ? count / seconds : 0; }

void add_distribution(const std::string& name, const Distribution& a, const Distribution& b,
                      std::vector<Metric>& out) {
  const auto add = [&](const char* which, double of_a, double of_b) {
    out.push_back({name + "_" + which + "_ms", of_a * 1e-6, of_b * 1e-6});
  };
  add("mean", a.mean, b.mean);
  add("p50", static_cast<double>(a.p50), static_cast<double>(b.p50));
  add("p99", static_cast<double>(a.p99), static_cast<double>(b.p99));
}

std::vector<Metric> metrics_of(const ComparedRuns& runs) {
  const RunResult &a = runs.a, &b = runs.b;
  std::vector<Metric> out;
  add_distribution("ttft", a.ttft, b.ttft, out);
  add_distribution("tpot", a.tpot, b.tpot, out);
  add_distribution("itl", a.itl, b.itl, out);
  add_distribution("e2e", a.e2e, b.e2e, out);
  const auto per_second = [&](const char* name, double of_a, double of_b) {
    out.push_back({name, rate(of_a, seconds_of(a)), rate(of_b, seconds_of(b))});
  };
  const auto count = [](std::uint64_t n) { return static_cast<double>(n); };
  per_second("requests_per_s", count(a.completed), count(b.completed));
  per_second("output_tokens_per_s", count(a.output_tokens), count(b.output_tokens));
  per_second("output_tokens_per_s_per_gpu", count(a.output_tokens) / static_cast<double>(runs.gpus_a),
             count(b.output_tokens) / static_cast<double>(runs.gpus_b));
  if (a.has_slo && b.has_slo) per_second("goodput_requests_per_s", count(a.slo_met), count(b.slo_met));
  out.push_back({"duration_s", seconds_of(a), seconds_of(b)});
  out.push_back({"completed", count(a.completed), count(b.completed), 0});
  out.push_back({"steps", count(a.steps), count(b.steps), 0});
  return out;
}

std::vector<Metric> device_time_of(const ComparedRuns& runs) {
  std::vector<Metric> out;
  const auto find = [&](const std::string& name) -> Metric& {
    const auto found = std::find_if(out.begin(), out.end(), [&](const Metric& m) { return m.name == name; });
    return found != out.end() ? *found : out.emplace_back(Metric{name});
  };
  for (const auto& [name, ns] : runs.a.device_time) find(name).a += static_cast<double>(ns) * 1e-9;
  for (const auto& [name, ns] : runs.b.device_time) find(name).b += static_cast<double>(ns) * 1e-9;
  out.push_back({"all, busy", static_cast<double>(runs.a.device_busy_ns) * 1e-9,
                 static_cast<double>(runs.b.device_busy_ns) * 1e-9});
  return out;
}

std::string ratio(const Metric& m) { return m.a > 0 ? format_fixed(m.b / m.a, 4) : "-"; }

void add_rows(const std::vector<Metric>& metrics, TextTable& table) {
  for (const Metric& m : metrics)
    table.add({m.name, format_fixed(m.a, m.decimals), format_fixed(m.b, m.decimals), ratio(m)});
}

Json json_of(const std::vector<Metric>& metrics) {
  Json out = Json::object();
  for (const Metric& m : metrics) {
    out[m.name] = {{"a", m.a}, {"b", m.b}};
    out[m.name]["ratio"] = m.a > 0 ? Json(m.b / m.a) : Json();
  }
  return out;
}

}  // namespace

Result<ComparedRuns> run_both(const Scenario& a, const Scenario& b) {
  RunOptions options;
  options.keep_going = [](std::uint64_t) { return !interrupted(); };
  ComparedRuns runs;
  runs.gpus_a = a.gpus();
  runs.gpus_b = b.gpus();
  ORRERY_TRY(of_a, run_scenario(a, options));
  ORRERY_TRY(of_b, run_scenario(b, options));
  runs.a = std::move(of_a);
  runs.b = std::move(of_b);
  return runs;
}

std::string run_comparison_table(const ComparedRuns& runs, const std::string& name_a,
                                 const std::string& name_b) {
  TextTable table({"run", "A", "B", "B / A"});
  add_rows(metrics_of(runs), table);
  TextTable device({"device time, s", "A", "B", "B / A"});
  add_rows(device_time_of(runs), device);
  return "A: " + name_a + "\nB: " + name_b + "\n\n" + table.to_string() + "\n" + device.to_string();
}

Json run_comparison_json(const ComparedRuns& runs) {
  return {{"metrics", json_of(metrics_of(runs))}, {"device_time_s", json_of(device_time_of(runs))}};
}

}  // namespace orrery
