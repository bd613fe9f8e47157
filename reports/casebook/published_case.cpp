#include "reports/casebook/published_case.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/files.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "costmodel/profile_folder.h"

namespace orrery {

namespace {

constexpr const char* kFolder = "reports/cases/published";

constexpr std::array<const char*, 4> kLatencies = {"ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"};
constexpr std::array<const char*, 6> kValues = {"throughput.requests_per_s",
                                                "throughput.input_tokens_per_s",
                                                "throughput.output_tokens_per_s",
                                                "throughput.total_tokens_per_s",
                                                "duration_s",
                                                capacity_metric};

// "ttft_ms.p99" → quantity and statistic. False: no such metric.
bool parse_metric(const std::string& name, BenchmarkMetric& metric) {
  using Statistic = BenchmarkMetric::Statistic;
  if (std::find(kValues.begin(), kValues.end(), name) != kValues.end()) {
    metric.quantity = name;
    metric.statistic = Statistic::value;
    return true;
  }
  const std::size_t dot = name.find('.');
  if (dot == std::string::npos) return false;
  metric.quantity = name.substr(0, dot);
  const std::string what = name.substr(dot + 1);
  if (std::find(kLatencies.begin(), kLatencies.end(), metric.quantity) == kLatencies.end()) return false;
  if (what == "mean" || what == "max") {
    metric.statistic = what == "mean" ? Statistic::mean : Statistic::largest;
    return true;
  }
  if (what.size() < 2 || what.size() > 3 || what[0] != 'p') return false;
  metric.percentile = 0;
  for (const char c : what.substr(1)) {
    if (c < '0' || c > '9') return false;
    metric.percentile = 10 * metric.percentile + (c - '0');
  }
  metric.statistic = Statistic::percentile;
  return true;
}

std::vector<BenchmarkMetric> read_measured(const Yaml& node) {
  std::vector<BenchmarkMetric> out;
  if (!node.present()) return out;
  for (const auto& [name, value] : node.entries()) {
    BenchmarkMetric metric;
    if (!parse_metric(name, metric)) {
      value.fail(
          "unknown metric; expected one of ttft_ms, tpot_ms, itl_ms, e2e_ms with .mean, .max or .p1 "
          "to .p99, or " +
          join({kValues.begin(), kValues.end()}, ", "));
      continue;
    }
    metric.value = value.number(0, 0);
    if (metric.value <= 0) value.fail("expected a measured value above 0");
    out.push_back(metric);
  }
  return out;
}

PublishedRequests read_requests(const Yaml& node) {
  PublishedRequests r;
  r.file = node.require("file").text();
  r.arrival_s = node.require("arrival_s").text();
  r.prompt_tokens = node.require("prompt_tokens").text();
  r.output_tokens = node.require("output_tokens").text();
  r.ttft_ms = node.require("ttft_ms").text();
  r.e2e_ms = node.require("e2e_ms").text();
  return r;
}

// Tells the document that all keys below are known: a deployment that is refused was not read to its end.
void mark_known(const Yaml& node) {
  if (node.is_map()) {
    for (const auto& [key, child] : node.entries()) mark_known(child);
  } else if (node.is_list()) {
    for (const Yaml& child : node.items()) mark_known(child);
  }
}

std::vector<std::string> read_texts(const Yaml& node) {
  std::vector<std::string> out;
  if (!node.present()) return out;
  for (const Yaml& item : node.items()) out.push_back(item.text());
  return out;
}

// Names of a list with commas, each once.
void add_name(std::string& names, const std::string& name) {
  if ((", " + names + ", ").find(", " + name + ", ") != std::string::npos) return;
  names += (names.empty() ? "" : ", ") + name;
}

struct Reading {
  const YamlDocument& document;
  std::string folder;
  Errors errors;    // beside the document's
  Errors refusals;  // of deployments, when the file says `refused:`
  std::vector<std::pair<std::size_t, std::size_t>> of_refusals;  // ranges of the document's errors
};

void read_run(const Yaml& node, const Yaml& common, std::uint64_t seed, bool may_refuse, Reading& in,
              PublishedCase& out) {
  PublishedRun run;
  run.name = node.require("name").text();
  run.data = node.require("data").text();
  const Yaml own = node.optional("deployment");
  const Yaml deployment = own.present() ? own : common;
  if (!deployment.present()) node.fail("no deployment: give the run one, or the case one for all its runs");
  run.measured = read_measured(node.require("measured"));
  const Yaml workload = run.is_capacity() ? Yaml() : node.require("workload");
  const std::size_t before = in.document.errors().size();
  Errors errors;
  run.scenario = read_scenario_parts(deployment, workload, in.folder, errors);
  if (errors.empty() && in.document.errors().size() == before) {
    const Status planned = plan_pools(run.scenario);
    if (!planned.ok()) errors = planned.errors();
  }
  const std::size_t after = in.document.errors().size();
  if (may_refuse && (after > before || !errors.empty())) {
    in.refusals.insert(in.refusals.end(), in.document.errors().begin() + static_cast<std::ptrdiff_t>(before),
                       in.document.errors().end());
    in.refusals.insert(in.refusals.end(), errors.begin(), errors.end());
    in.of_refusals.emplace_back(before, after);
    mark_known(deployment);
    mark_known(workload);
  } else {
    in.errors.insert(in.errors.end(), errors.begin(), errors.end());
  }
  run.scenario.file = out.file;
  run.scenario.seed = seed;
  if (!run.is_capacity() &&
      std::any_of(run.measured.begin(), run.measured.end(),
                  [](const BenchmarkMetric& m) { return m.quantity == capacity_metric; }))
    node.optional("measured")
        .fail(std::string(capacity_metric) +
              " needs no workload: give it a run of its own, without other metrics");
  if (const Yaml requests = node.optional("requests")) run.requests = read_requests(requests);
  const Yaml pools = deployment.optional("pools");
  const Yaml first = pools.is_list() && !pools.items().empty() ? pools.items().front() : deployment;
  add_name(out.hardware, first.optional("hardware").scalar_text());
  add_name(out.model, first.optional("model").scalar_text());
  out.runs.push_back(std::move(run));
}

}  // namespace

bool PublishedRun::is_capacity() const {
  return !measured.empty() && std::all_of(measured.begin(), measured.end(), [](const BenchmarkMetric& m) {
    return m.quantity == capacity_metric;
  });
}

Result<PublishedCase> load_published_case(const std::string& path) {
  ORRERY_TRY(document, YamlDocument::load(path));
  PublishedCase out;
  out.file = path;
  out.id = std::filesystem::path(path).stem().string();
  Reading in{document, std::filesystem::path(path).parent_path().string(), {}, {}, {}};
  if (in.folder.empty()) in.folder = ".";
  const Yaml root = document.root();
  out.title = root.require("title").text();
  out.engine = root.require("engine").text();
  const Yaml source = root.require("source");
  out.source = source.require("text").text();
  out.url = source.require("url").text();
  out.license = source.require("license").text();
  out.assumptions = read_texts(root.require("assumptions"));
  out.residuals = read_texts(root.optional("residuals"));
  const Yaml refused = root.optional("refused");
  if (refused.present()) out.needs = refused.text();
  const Yaml common = root.optional("deployment");
  const auto seed = static_cast<std::uint64_t>(root.optional("seed").integer(1, 0));
  const std::vector<Yaml> runs = root.require("runs").items();
  for (const Yaml& run : runs) read_run(run, common, seed, refused.present(), in, out);
  if (runs.empty()) root.optional("runs").fail("expected at least one run");
  document.finish();

  Errors errors = in.errors;
  for (std::size_t i = 0; i < document.errors().size(); ++i) {
    const bool refusal = std::any_of(in.of_refusals.begin(), in.of_refusals.end(),
                                     [&](const auto& r) { return r.first <= i && i < r.second; });
    if (!refusal) errors.push_back(document.errors()[i]);
  }
  if (!errors.empty()) return errors;
  if (!in.refusals.empty()) {
    Error first = in.refusals.front();
    const std::string root_folder = data_directory() + "/";  // reports must not depend on where it stands
    if (first.where.file.starts_with(root_folder)) first.where.file.erase(0, root_folder.size());
    out.refusal = first.to_string();
    out.runs.clear();
  }
  return out;
}

std::vector<std::string> published_case_ids() { return profile_names(kFolder); }
std::string published_case_path(const std::string& id) { return profile_path(kFolder, id); }

}  // namespace orrery
