// Engine fidelity as text: Markdown for the repository, a short form for a terminal.
#include <algorithm>
#include <cmath>

#include "base/text.h"
#include "reports/casebook/engine_fidelity.h"

namespace orrery {

namespace {

using Row = std::vector<std::string>;

std::string markdown_table(const Row& header, const std::vector<Row>& rows) {
  std::string text = "| " + join(header, " | ") + " |\n| --- |";
  for (std::size_t i = 1; i < header.size(); ++i) text += " --: |";
  text += "\n";
  for (const Row& row : rows) text += "| " + join(row, " | ") + " |\n";
  return text;
}

std::string percent(double ratio, int decimals = 1) { return format_fixed(100 * ratio, decimals) + " %"; }
std::string signed_percent(double ratio) { return (ratio >= 0 ? "+" : "") + percent(ratio); }
std::string share(std::int64_t part, std::int64_t all) {
  return all == 0 ? "–" : percent(static_cast<double>(part) / static_cast<double>(all), 2);
}

// All requests of a run that count, over its experiments.
struct Pooled {
  std::int64_t requests = 0;
  double mean_abs = 0, median_abs = 0, mean_signed = 0, median_signed = 0;
};

Pooled pool(const RunFidelity& r, const std::string& metric) {
  std::vector<double> errors, absolute;
  for (const ExperimentSplit& e : r.experiments) {
    for (const MetricSplit& m : e.metrics) {
      if (m.metric == metric) errors.insert(errors.end(), m.errors.begin(), m.errors.end());
    }
  }
  Pooled p{.requests = static_cast<std::int64_t>(errors.size())};
  for (const double e : errors) {
    absolute.push_back(std::abs(e));
    p.mean_abs += std::abs(e) / static_cast<double>(errors.size());
    p.mean_signed += e / static_cast<double>(errors.size());
  }
  p.median_abs = median_of(absolute);
  p.median_signed = median_of(errors);
  return p;
}

std::string schedules(const EngineFidelity& f) {
  std::vector<Row> rows;
  for (const RunFidelity& r : f.runs) {
    std::int64_t logged = 0, in_place = 0, partners = 0;
    for (const ExperimentSplit& e : r.experiments) {
      logged += e.logged_steps;
      in_place += e.in_place;
      partners += e.partners;
    }
    rows.push_back({r.run.name, r.run.fitted == "nothing" ? "nothing (held out)" : r.run.fitted,
                    std::to_string(r.steps), share(r.identical, r.steps), share(in_place, logged),
                    share(partners, logged), r.skipped.empty() ? percent(r.times.median_abs, 2) : "–",
                    r.skipped.empty() ? percent(r.times.p90_abs, 2) : "–",
                    r.skipped.empty() ? percent(r.times.running_on_median_abs, 2) : "–"});
  }
  return markdown_table({"run", "fitted to it", "steps", "teacher-forced", "free-running, in place",
                         "free-running, anywhere", "step-time replay, each step from the one ahead: median",
                         "90 %", "running on by itself (the check, 2 %)"},
                        rows);
}

std::string errors(const EngineFidelity& f) {
  std::vector<Row> rows;
  for (const RunFidelity& r : f.runs) {
    if (!r.skipped.empty()) continue;
    for (const auto& [metric, name] : {std::pair{"ttft_ms", "TTFT"}, std::pair{"tpot_ms", "TPOT"}}) {
      const Pooled p = pool(r, metric);
      rows.push_back({r.run.name + ", " + name, std::to_string(p.requests), percent(p.mean_abs),
                      percent(p.median_abs), signed_percent(p.mean_signed), signed_percent(p.median_signed)});
    }
  }
  return markdown_table({"run, metric", "requests", "mean abs.", "median abs.", "mean", "median"}, rows);
}

std::string splits(const RunFidelity& r) {
  std::vector<Row> rows;
  for (const ExperimentSplit& e : r.experiments) {
    for (const MetricSplit& m : e.metrics) {
      const auto part = [&](double v) { return signed_percent(v / m.measured); };
      rows.push_back({e.experiment + " (" + e.kind + "), " + (m.metric == "ttft_ms" ? "TTFT" : "TPOT"),
                      format_fixed(m.measured, 2), format_fixed(m.predicted, 2),
                      part(m.predicted - m.measured), part(m.step_time), part(m.host), part(m.queueing),
                      m.has_outcomes ? part(m.client) : "–", std::to_string(e.left_out)});
    }
  }
  return markdown_table({"experiment, metric", "measured, ms", "predicted, ms", "error", "step time", "host",
                         "queueing", "client", "left out"},
                        rows);
}

std::string stalls(const RunFidelity& r) {
  if (r.stalls.empty()) return "No stall.\n";
  std::string text =
      "Stalls (first step of its size, over five times the median of its class), left out with the "
      "requests in flight: ";
  constexpr std::size_t shown = 12;
  std::vector<std::string> parts;
  for (std::size_t i = 0; i < std::min(shown, r.stalls.size()); ++i) {
    const Stall& s = r.stalls[i];
    parts.push_back("`" + s.experiment + "` step " + std::to_string(s.step) + " (" +
                    std::to_string(s.tokens) + " tokens, " +
                    format_fixed(static_cast<double>(s.end_ns - s.begin_ns) / 1e6, 0) + " ms, median " +
                    format_fixed(s.class_median_ns / 1e6, 0) + ")");
  }
  text += join(parts, "; ");
  if (r.stalls.size() > shown)
    text += "; and " + std::to_string(r.stalls.size() - shown) + " more in engine_fidelity.json";
  return text + ".\n";
}

std::string coverage(const EngineCoverage& e) {
  std::int64_t count[5] = {};
  static constexpr const char* names[] = {"implemented", "partly", "refused", "ignored", "data"};
  std::vector<Row> rows;
  for (const RuleCoverage& r : e.rules) {
    for (std::size_t i = 0; i < 5; ++i) count[i] += r.status == names[i];
    std::string tests = r.tests.empty() ? "–" : r.tests.front();
    if (r.tests.size() > 1) tests += " (and " + std::to_string(r.tests.size() - 1) + " more)";
    rows.push_back({"§" + r.section + " " + r.title, r.status, r.note.empty() ? "" : r.note, tests});
  }
  std::vector<std::string> counts;
  for (std::size_t i = 0; i < 5; ++i) counts.push_back(std::to_string(count[i]) + " " + names[i]);
  std::string text = "### " + e.engine + "\n\nSections of `../shared/reference/" + e.reference +
                     "`: " + join(counts, ", ") + ". ";
  text += e.reference_read ? "The list was compared with the text's headings.\n\n"
                           : "The text is not here: the list was not compared with its headings.\n\n";
  std::string table = "| rule | status | what and why | cited by |\n| --- | --- | --- | --- |\n";
  for (const Row& row : rows) table += "| " + join(row, " | ") + " |\n";
  return text + table + "\n";
}

}  // namespace

std::string fidelity_markdown(const EngineFidelity& f) {
  std::string text =
      "# Fidelity to real engines\n\nMade by `orrery validate --engines`; the same as data: "
      "engine_fidelity.json, "
      "engine_fidelity.csv.\nDefinitions: [docs/validation.md](../../docs/validation.md). Error = predicted "
      "÷ "
      "measured − 1.\n\n";
  text += f.failures.empty() ? "All checks are inside their bars.\n\n"
                             : "**Outside their bars:** " + join(f.failures, "; ") + ".\n\n";
  if (!f.shared_found)
    text += "../shared is not here: the copies of its runs in reports/cases were read.\n\n";
  text += "## Schedules and step times (vLLM 0.24)\n\n" + schedules(f) +
          "\n## Errors of requests, all experiments of a run\n\n" + errors(f) +
          "\n## Where the errors come from\n\nShares of the measured mean; step time + host + queueing + "
          "client = "
          "error.\n\n";
  for (const RunFidelity& r : f.runs) {
    text += "### " + r.run.name + "\n\n";
    text += r.skipped.empty() ? splits(r) + "\n" + stalls(r) + "\n" : "Not compared: " + r.skipped + "\n\n";
  }
  text += f.published;
  text +=
      "## Rules of the engines\n\nWhich of the rules that were read in the engines' sources are in Orrery, "
      "and "
      "which test holds each. vLLM's are replayed on\nlogs besides (above), some of SGLang's too "
      "(reports/cases/h200_sglang_0_5_17); of TensorRT-LLM there is no log.\n\n";
  for (const EngineCoverage& e : f.engines) text += coverage(e);
  return text;
}

std::string fidelity_text(const EngineFidelity& f) {
  TextTable table({"run", "teacher-forced", "step-time replay", "TTFT mean abs.", "median abs.",
                   "TPOT mean abs.", "median abs."});
  for (const RunFidelity& r : f.runs) {
    const Pooled ttft = pool(r, "ttft_ms"), tpot = pool(r, "tpot_ms");
    table.add({r.run.name, std::to_string(r.identical) + " of " + std::to_string(r.steps),
               percent(r.times.median_abs, 2), percent(ttft.mean_abs), percent(ttft.median_abs),
               percent(tpot.mean_abs), percent(tpot.median_abs)});
  }
  std::string text = table.to_string();
  for (const RunFidelity& r : f.runs) {
    if (!r.skipped.empty()) text += r.run.name + ": not compared: " + r.skipped + "\n";
  }
  for (const EngineCoverage& e : f.engines) {
    std::size_t cited = 0;
    for (const RuleCoverage& r : e.rules) cited += !r.tests.empty();
    text += e.engine + ": " + std::to_string(e.rules.size()) + " sections of " + e.reference + ", " +
            std::to_string(cited) + " cited by tests\n";
  }
  for (const std::string& failure : f.failures) text += "outside its bar: " + failure + "\n";
  return text;
}

}  // namespace orrery
