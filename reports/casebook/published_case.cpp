#include "reports/casebook/published_case.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/files.h"
#include "base/text.h"
#include "base/yaml_reader.h"
#include "costmodel/profile_folder.h"
#include "sim/costed/slo_reader.h"

namespace orrery {

namespace {

constexpr const char* kFolder = "reports/cases/published";

constexpr std::array<const char*, 4> kLatencies = {"ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"};
constexpr std::array<const char*, 7> kValues = {"throughput.requests_per_s",
                                                "throughput.input_tokens_per_s",
                                                "throughput.output_tokens_per_s",
                                                "throughput.total_tokens_per_s",
                                                "duration_s",
                                                capacity_metric,
                                                rate_metric};

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

// "step.device_ms", "step.grouped_gemm_ms"
bool parse_step_metric(const std::string& name, BenchmarkMetric& metric) {
  metric.quantity = name;
  metric.statistic = BenchmarkMetric::Statistic::value;
  if (name == "step.device_ms") return true;
  for (std::size_t i = 0; i < op_class_count; ++i) {
    if (name == step_class_metric(static_cast<OpClass>(i))) return true;
  }
  return false;
}

std::vector<BenchmarkMetric> read_measured(const Yaml& node, bool of_step) {
  std::vector<BenchmarkMetric> out;
  if (!node.present()) return out;
  for (const auto& [name, value] : node.entries()) {
    BenchmarkMetric metric;
    if (!(of_step ? parse_step_metric(name, metric) : parse_metric(name, metric))) {
      if (of_step)
        value.fail(
            "unknown metric of a step; expected step.device_ms, or step.CLASS_ms with a class of "
            "operators (orrery list operators)");
      else
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

// As interfaces §6 has the rows of `cost --steps`.
PublishedStep read_step(const Yaml& node) {
  PublishedStep step;
  if (const Yaml prefill = node.optional("prefill")) {
    for (const Yaml& chunk : prefill.items()) {
      const std::vector<Yaml> pair = chunk.items();
      if (pair.size() != 2) {
        chunk.fail("expected [new tokens, context before]");
        continue;
      }
      step.prefill.push_back({.new_tokens = static_cast<std::int32_t>(pair[0].integer(1, 1, 1 << 24)),
                              .context = pair[1].integer(0, 0)});
    }
  }
  if (const Yaml decode = node.optional("decode")) {
    step.decode_sequences = static_cast<std::int32_t>(decode.require("sequences").integer(1, 1, 1 << 20));
    step.decode_context_tokens = decode.require("context_tokens").integer(0, 0);
  }
  if (step.prefill.empty() && step.decode_sequences == 0) node.fail("the step is empty");
  return step;
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
  if (const Yaml step = node.optional("step")) {
    run.step = read_step(step);
    if (deployment.optional("pools").present())
      step.fail("several pools price a step differently; give the run a deployment without `pools`");
  }
  run.does_not_fit = node.optional("does_not_fit").boolean(false);
  // A run may stand there for a pair alone.
  run.measured = read_measured(node.optional("measured"), run.step.has_value());
  if (run.does_not_fit && (run.step || !run.measured.empty()))
    node.optional("does_not_fit").fail("what does not fit has no other figures: drop measured and step");
  const Yaml workload = run.is_capacity() || run.step ? Yaml() : node.require("workload");
  const std::size_t before = in.document.errors().size();
  Errors errors;
  run.scenario = read_scenario_parts(deployment, workload, in.folder, errors);
  run.scenario.slo = read_slo(node.optional("slo"));
  if (run.is_rate() != run.scenario.slo.given)
    node.fail(std::string(rate_metric) + " and `slo` belong together, in a run without other metrics");
  if (run.scenario.slo.given && (run.step || run.does_not_fit))
    node.optional("slo").fail("only the highest rate of a workload has limits: drop it");
  if (errors.empty() && in.document.errors().size() == before) {
    const Status planned = plan_pools(run.scenario);
    if (!planned.ok() && run.does_not_fit && planned.errors().front().kind == ErrorKind::infeasible)
      run.infeasible = planned.errors().front().message;
    else if (!planned.ok())
      errors = planned.errors();
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

std::optional<std::size_t> run_named(const PublishedCase& in, const Yaml& name) {
  const std::string text = name.text();
  for (std::size_t i = 0; i < in.runs.size(); ++i) {
    if (in.runs[i].name == text) return i;
  }
  name.fail("no run of this case has that name");
  return std::nullopt;
}

void read_pairs(const Yaml& node, PublishedCase& out) {
  if (!node.present()) return;
  for (const Yaml& item : node.items()) {
    PublishedPair pair;
    pair.name = item.require("name").text();
    pair.data = item.require("data").text();
    const auto of = run_named(out, item.require("of")), to = run_named(out, item.require("to"));
    if (!of || !to) {
      mark_known(item.optional("measured"));
      continue;
    }
    pair.of = *of;
    pair.to = *to;
    const PublishedRun &a = out.runs[*of], &b = out.runs[*to];
    if (a.step.has_value() != b.step.has_value() || a.does_not_fit || b.does_not_fit)
      item.fail("a pair is of two steps or of two workloads");
    if (a.is_rate() != b.is_rate()) item.fail("a highest rate is in a pair with another one only");
    if (a.is_capacity() || b.is_capacity())
      item.fail("a run of " + std::string(capacity_metric) + " has no workload: it cannot be in a pair");
    pair.measured = read_measured(item.optional("measured"), a.step.has_value());
    for (const BenchmarkMetric& m : pair.measured) {
      if (m.quantity == capacity_metric)
        item.optional("measured").fail(std::string(capacity_metric) + " has no ratio here");
    }
    out.pairs.push_back(std::move(pair));
  }
}

// Names of runs, or all three of pairs. What stands for an end is asked for the same figures.
void read_ranges(const Yaml& node, PublishedCase& out) {
  if (!node.present()) return;
  const auto pair_named = [&](const Yaml& name) {
    const auto same = [&](const PublishedPair& p) { return p.name == name.text(); };
    return static_cast<std::size_t>(std::find_if(out.pairs.begin(), out.pairs.end(), same) -
                                    out.pairs.begin());
  };
  for (const Yaml& item : node.items()) {
    PublishedRange range;
    range.what = item.require("what").text();
    const Yaml of = item.require("of"), low = item.require("low"), high = item.require("high");
    range.of = pair_named(of);
    range.of_pairs = range.of < out.pairs.size();
    if (range.of_pairs) {
      range.low = pair_named(low);
      range.high = pair_named(high);
      if (range.low == out.pairs.size() || range.high == out.pairs.size()) {
        item.fail("a range of a pair has pairs at its ends");
        continue;
      }
      for (const std::size_t end : {range.low, range.high}) {
        if (!out.pairs[end].measured.empty()) continue;
        out.pairs[end].measured = out.pairs[range.of].measured;
        for (BenchmarkMetric& m : out.pairs[end].measured) m.value = 0;
      }
    } else {
      const auto a = run_named(out, of), b = run_named(out, low), c = run_named(out, high);
      if (!a || !b || !c) continue;
      range.of = *a;
      range.low = *b;
      range.high = *c;
      const PublishedRun& run = out.runs[range.of];
      if (run.measured.empty() || run.is_capacity())
        item.fail("a range is of a run with figures of a workload or a step");
      for (const std::size_t end : {range.low, range.high}) {
        if (out.runs[end].step.has_value() != run.step.has_value() || out.runs[end].does_not_fit ||
            out.runs[end].scenario.slo.given != run.scenario.slo.given)
          item.fail("the ends of a range are runs like the one that it is of");
      }
    }
    out.ranges.push_back(std::move(range));
  }
}

// Figures of its own, or a place in a pair or a range: a run without any says nothing.
void check_runs_count(const std::vector<Yaml>& nodes, const std::vector<Yaml>& pairs,
                      const PublishedCase& in) {
  for (std::size_t i = 0; i < in.runs.size(); ++i) {
    const bool paired = std::any_of(in.pairs.begin(), in.pairs.end(),
                                    [&](const PublishedPair& p) { return p.of == i || p.to == i; }) ||
                        std::any_of(in.ranges.begin(), in.ranges.end(), [&](const PublishedRange& r) {
                          return !r.of_pairs && (r.low == i || r.high == i);
                        });
    if (in.runs[i].measured.empty() && !in.runs[i].does_not_fit && !paired)
      nodes[i].fail("nothing to compare: give the run `measured:`, or name it in a pair or a range");
  }
  for (std::size_t i = 0; i < in.pairs.size() && i < pairs.size(); ++i) {
    if (in.pairs[i].measured.empty())
      pairs[i].fail("nothing to compare: give the pair `measured:`, or name it in a range");
  }
}

}  // namespace

std::string step_class_metric(OpClass op_class) { return std::string("step.") + to_string(op_class) + "_ms"; }

bool PublishedRun::is_rate() const {
  // The end of a range has no figures and is known by its limits.
  return (measured.empty() && scenario.slo.given) ||
         (measured.size() == 1 && measured[0].quantity == rate_metric);
}

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
  const Yaml pairs = root.optional("pairs");
  read_pairs(pairs, out);
  read_ranges(root.optional("ranges"), out);
  check_runs_count(runs, pairs.is_list() ? pairs.items() : std::vector<Yaml>(), out);
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
    out.pairs.clear();  // they name runs by position
    out.ranges.clear();
  }
  return out;
}

std::vector<std::string> published_case_ids() { return profile_names(kFolder); }
std::string published_case_path(const std::string& id) { return profile_path(kFolder, id); }

}  // namespace orrery
