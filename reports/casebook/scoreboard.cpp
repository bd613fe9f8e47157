#include "reports/casebook/scoreboard.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "base/statistics.h"
#include "base/text.h"
#include "reports/casebook/score_rows.h"

namespace orrery {

namespace {

using Row = std::vector<std::string>;

std::string number(double v) { return format_fixed(v, v < 100 ? 2 : v < 10000 ? 1 : 0); }
std::string signed_percent(double p) { return (p >= 0 ? "+" : "") + format_fixed(p, 1) + " %"; }

std::string interval(const ComparedMetric& m, bool intervals) {
  return intervals ? number(m.low) + " … " + number(m.high) : "–";
}

// "93 % published, 7 % roofline"
std::string shares(const std::vector<std::pair<std::string, double>>& provenance) {
  std::vector<std::string> parts;
  for (const auto& [rung, share] : provenance) {
    if (share >= 0.005) parts.push_back(format_fixed(100 * share, 0) + " % " + rung);
  }
  return parts.empty() ? "–" : join(parts, ", ");
}

// Medians over a group's rows, and how many of the rows lie in their interval.
struct Group {
  std::vector<double> absolute, with_sign;
  std::int64_t rows = 0, with_interval = 0, inside = 0, verdict_inside = 0;

  void add(const ComparedMetric& m, bool intervals) {
    ++rows;
    absolute.push_back(std::abs(m.error_percent()));
    with_sign.push_back(m.error_percent());
    if (!intervals) return;
    ++with_interval;
    inside += m.inside();
    verdict_inside += verdict(m, true) == "inside";
  }
  static double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return linear_percentile(values, 50);
  }
  Json json() const {
    return {{"rows", rows},
            {"median_abs_error_percent", median(absolute)},
            {"median_error_percent", median(with_sign)},
            {"with_interval", with_interval},
            {"measured_in_interval", inside},
            {"verdict_inside", verdict_inside}};
  }
};

// The last argument of `visit`: whether the figure has an interval and no width comes from it.
template <class Visit>
void each_published(const std::vector<CaseComparison>& cases, const Visit& visit) {
  const std::vector<ScoreRow> scores = score_rows(cases);  // in the same order
  std::size_t i = 0;
  for (const CaseComparison& c : cases) {
    for (const ComparedRun& run : c.runs) {
      for (const ComparedMetric& m : run.metrics) {
        const bool scored = scores[i].interval && half_of(scores[i]) != std::string("fitted");
        ++i;
        if (!c.own) visit(c, m, scored);
      }
    }
  }
}

Json row_json(const CaseComparison& c, const ComparedRun& run, const ComparedMetric& m) {
  const std::string v = verdict(m, run.intervals);
  return {{"id", c.about.id},
          {"run", run.name},
          {"metric", m.name},
          {"own", c.own},
          {"published", m.measured},
          {"predicted", m.predicted},
          {"low", run.intervals ? Json(m.low) : Json()},
          {"high", run.intervals ? Json(m.high) : Json()},
          {"error_percent", m.error_percent()},
          {"verdict", v.empty() ? Json() : Json(v)},
          {"correction", m.correction.empty() ? Json() : Json(m.correction)}};
}

// Share of published figures in their interval, of those that no width comes from: the other half of the
// cases, and ratios and steps, which no correction moves. Null without any.
Json coverage_share(const std::vector<ScoreRow>& scores) {
  std::size_t rows = 0, inside = 0;
  for (const ScoreRow& row : scores) {
    if (row.source == ScoreSource::own_run || !row.interval || half_of(row) == std::string("fitted"))
      continue;
    ++rows;
    inside += row.metric.inside();
  }
  return rows == 0 ? Json() : Json(static_cast<double>(inside) / static_cast<double>(rows));
}

Json requests_json(const CaseComparison& c, const ComparedRun& run, const RequestComparison& r) {
  Json metrics = Json::object();
  for (const ComparedMetric& m : r.metrics)
    metrics[m.name] = {
        {"published", m.measured}, {"predicted", m.predicted}, {"error_percent", m.error_percent()}};
  return {{"id", c.about.id},
          {"run", run.name},
          {"file", r.file},
          {"skipped", r.skipped.empty() ? Json() : Json(r.skipped)},
          {"requests", r.requests},
          {"ttft_median_abs_error", r.ttft_median_abs},
          {"e2e_median_abs_error", r.e2e_median_abs},
          {"metrics", metrics}};
}

Json about_json(const CaseComparison& c) {
  Json runs = Json::array();
  for (const ComparedRun& run : c.runs) {
    Json provenance = Json::object();
    for (const auto& [rung, share] : run.provenance) provenance[rung] = share;
    runs.push_back(
        {{"name", run.name}, {"data", run.data}, {"provenance", provenance}, {"notes", run.notes}});
  }
  return {{"id", c.about.id},
          {"title", c.about.title},
          {"own", c.own},
          {"hardware", c.about.hardware},
          {"model", c.about.model},
          {"engine", c.about.engine},
          {"source", {{"text", c.about.source}, {"url", c.about.url}, {"license", c.about.license}}},
          {"assumptions", c.about.assumptions},
          {"residuals", c.about.residuals},
          {"refused", c.about.refusal.empty() ? Json() : Json(c.about.refusal)},
          {"needs", c.about.needs.empty() ? Json() : Json(c.about.needs)},
          {"runs", runs}};
}

std::string markdown_table(const Row& header, std::size_t text_columns, const std::vector<Row>& rows) {
  std::string text = "| " + join(header, " | ") + " |\n|";
  for (std::size_t i = 0; i < header.size(); ++i) text += i < text_columns ? " --- |" : " --: |";
  text += "\n";
  for (const Row& row : rows) text += "| " + join(row, " | ") + " |\n";
  return text;
}

// Over all published rows, by case and by metric: what a reader wants first.
std::string summary_table(const std::vector<CaseComparison>& cases) {
  std::map<std::string, Group> by_metric, by_case;
  each_published(cases, [&](const CaseComparison& c, const ComparedMetric& m, bool scored) {
    by_metric[m.name].add(m, scored);
    by_case[c.about.id].add(m, scored);
  });
  std::vector<Row> rows;
  const auto add = [&](const std::string& name, const Group& g) {
    rows.push_back(
        {name, std::to_string(g.rows), signed_percent(Group::median(g.with_sign)),
         format_fixed(Group::median(g.absolute), 1) + " %",
         g.with_interval == 0 ? "–" : std::to_string(g.inside) + " of " + std::to_string(g.with_interval)});
  };
  for (const auto& [name, group] : by_case) add(name, group);
  for (const auto& [name, group] : by_metric) add("all cases, " + name, group);
  return markdown_table(
      {"case, metric", "rows", "median error", "median abs. error", "in the 90 % interval (scored half)"}, 1,
      rows);
}

std::string bullets(const std::string& what, const std::vector<std::string>& texts) {
  if (texts.empty()) return "";
  std::string out = what + "\n\n";
  for (const std::string& text : texts) out += "- " + text + "\n";
  return out + "\n";
}

std::string requests_table(const CaseComparison& c) {
  std::vector<Row> rows;
  std::string skipped;
  for (const ComparedRun& run : c.runs) {
    for (const RequestComparison& r : run.requests) {
      if (!r.skipped.empty()) {
        skipped += "- " + run.name + ": " + r.skipped + "\n";
        continue;
      }
      Row row = {run.name, std::to_string(r.requests), format_fixed(100 * r.ttft_median_abs, 1) + " %",
                 format_fixed(100 * r.e2e_median_abs, 1) + " %"};
      for (const char* name : {"ttft_ms.p50", "ttft_ms.p99", "tpot_ms.mean", "e2e_ms.p99"}) {
        const auto m = std::find_if(r.metrics.begin(), r.metrics.end(),
                                    [&](const ComparedMetric& x) { return x.name == name; });
        row.push_back(m == r.metrics.end() ? "–" : signed_percent(m->error_percent()));
      }
      rows.push_back(std::move(row));
    }
  }
  std::string text;
  if (!rows.empty())
    text += "The recorded requests at their recorded times, one by one:\n\n" +
            markdown_table({"run", "requests", "TTFT, median abs. error of a request", "E2E, the same",
                            "TTFT p50", "TTFT p99", "TPOT mean", "E2E p99"},
                           1, rows) +
            "\n";
  return skipped.empty() ? text : text + skipped + "\n";
}

}  // namespace

Json scoreboard_json(const std::vector<CaseComparison>& cases) {
  Json rows = Json::array(), about = Json::array(), requests = Json::array();
  for (const CaseComparison& c : cases) {
    about.push_back(about_json(c));
    for (const ComparedRun& run : c.runs) {
      for (const ComparedMetric& m : run.metrics) rows.push_back(row_json(c, run, m));
      for (const RequestComparison& r : run.requests) requests.push_back(requests_json(c, run, r));
    }
  }
  const std::vector<ScoreRow> scores = score_rows(cases);  // in the same order
  for (std::size_t i = 0; i < scores.size(); ++i) rows[i]["half"] = half_of(scores[i]);
  std::map<std::string, Group> by_part, by_engine;
  each_published(cases, [&](const CaseComparison& c, const ComparedMetric& m, bool scored) {
    by_part[c.about.hardware].add(m, scored);
    by_engine[c.about.engine].add(m, scored);
  });
  Json parts = Json::object(), engines = Json::object();
  for (const auto& [name, group] : by_part) parts[name] = group.json();
  for (const auto& [name, group] : by_engine) engines[name] = group.json();
  return {{"cases", rows},        {"coverage", coverage_share(scores)},
          {"by_part", parts},     {"by_engine", engines},
          {"requests", requests}, {"about", about}};
}

std::string scoreboard_csv(const std::vector<CaseComparison>& cases) {
  // No cell holds a comma: ids are file names, runs and engines are checked for it here.
  const auto cell = [](std::string text) {
    std::replace(text.begin(), text.end(), ',', ';');
    return text;
  };
  std::string csv = "id,run,hardware,engine,own,metric,published,predicted,low,high,error_percent,verdict\n";
  for (const CaseComparison& c : cases) {
    for (const ComparedRun& run : c.runs) {
      for (const ComparedMetric& m : run.metrics) {
        csv += cell(c.about.id) + "," + cell(run.name) + "," + cell(c.about.hardware) + "," +
               cell(c.about.engine) + "," + (c.own ? "true" : "false") + "," + m.name + "," +
               format_number(m.measured) + "," + format_fixed(m.predicted, 4) + ",";
        csv += run.intervals ? format_fixed(m.low, 4) + "," + format_fixed(m.high, 4) : std::string(",");
        csv += "," + format_fixed(m.error_percent(), 2) + "," + verdict(m, run.intervals) + "\n";
      }
    }
  }
  return csv;
}

std::string scoreboard_sections(const std::vector<CaseComparison>& cases, const std::string& heading) {
  std::string text;
  const bool any = std::any_of(cases.begin(), cases.end(),
                               [](const CaseComparison& c) { return !c.own && !c.runs.empty(); });
  if (any) text += summary_table(cases) + "\n";
  for (const CaseComparison& c : cases) {
    text += heading + "# " + c.about.id + "\n\n" + c.about.title + ". " + c.about.model + " on " +
            c.about.hardware + ", " + c.about.engine + ".";
    if (!c.own)
      text += " Measured by others: " + c.about.source + ", <" + c.about.url +
              ">, license: " + c.about.license + ".";
    text += "\n\n";
    if (!c.about.refusal.empty()) {
      text += "**Not compared.** " + (c.about.needs.empty() ? "" : c.about.needs + ". ") +
              "Reading it says: `" + c.about.refusal + "`\n\n";
    } else if (!c.about.needs.empty()) {
      text += "The file says `refused: " + c.about.needs +
              "`, and yet this version can describe it: remove that line.\n\n";
    }
    std::vector<Row> rows;
    for (const ComparedRun& run : c.runs) {
      for (const ComparedMetric& m : run.metrics) {
        const std::string v = verdict(m, run.intervals);
        rows.push_back({run.name, m.name, number(m.measured), number(m.predicted), interval(m, run.intervals),
                        signed_percent(m.error_percent()), v.empty() ? "–" : v, shares(run.provenance)});
      }
    }
    if (!rows.empty())
      text += markdown_table({"run", "metric", "measured", "predicted", "90 % interval", "error", "verdict",
                              "device time by rung"},
                             2, rows) +
              "\n";
    text += requests_table(c);
    text += bullets("Assumptions:", c.about.assumptions);
    text += bullets("Where it is off, and why:", c.about.residuals);
  }
  return text;
}

std::string scoreboard_markdown(const std::vector<CaseComparison>& cases) {
  return "# Scoreboard\n\nMade by `orrery validate`; the same as data: scoreboard.json, scoreboard.csv. "
         "Definitions:\ndocs/validation.md. Error = predicted ÷ measured − 1. Nothing of Orrery was fitted "
         "to a case that others measured\nbut vllm-0.5 and vllm-0.5-rocm, to rows that stand in none.\n\n" +
         scoreboard_sections(cases, "#");
}

std::string scoreboard_text(const std::vector<CaseComparison>& cases) {
  std::string text;
  for (const CaseComparison& c : cases) {
    text += c.about.id + ": " + c.about.title + "; " + c.about.model + " on " + c.about.hardware + ", " +
            c.about.engine + (c.own ? "" : "; measured by others, not used for fitting") + "\n";
    if (!c.about.refusal.empty())
      text +=
          "  not compared: " + (c.about.needs.empty() ? "" : c.about.needs + "; ") + c.about.refusal + "\n";
    if (c.about.refusal.empty() && !c.about.needs.empty())
      text += "  its file says refused (" + c.about.needs + "), and yet it runs: remove that line\n";
    TextTable table({"run", "metric", "measured", "predicted", "90 % interval", "error", "verdict",
                     "device time by rung"});
    std::string requests;
    for (const ComparedRun& run : c.runs) {
      for (const ComparedMetric& m : run.metrics) {
        const std::string v = verdict(m, run.intervals);
        table.add({run.name, m.name, number(m.measured), number(m.predicted), interval(m, run.intervals),
                   signed_percent(m.error_percent()), v.empty() ? "–" : v, shares(run.provenance)});
      }
      for (const std::string& note : run.notes) requests += "· " + run.name + ": " + note + "\n";
      for (const RequestComparison& r : run.requests) {
        requests += "· " + run.name + ": " +
                    (r.skipped.empty() ? std::to_string(r.requests) +
                                             " recorded requests one by one: median error of TTFT " +
                                             format_fixed(100 * r.ttft_median_abs, 1) + " %, of E2E " +
                                             format_fixed(100 * r.e2e_median_abs, 1) + " %"
                                       : r.skipped) +
                    "\n";
      }
    }
    if (!c.runs.empty()) text += table.to_string() + requests;
    for (const std::string& a : c.about.assumptions) text += "· assumed: " + a + "\n";
    text += "\n";
  }
  return text;
}

std::string scoreboard_summary(const std::vector<CaseComparison>& cases) {
  TextTable table({"published case (not ours, no fit)", "rows", "median abs. error",
                   "in the 90 % interval (scored half)"});
  std::string refused;
  for (const CaseComparison& c : cases) {
    Group group;
    each_published(
        {c}, [&](const CaseComparison&, const ComparedMetric& m, bool scored) { group.add(m, scored); });
    if (group.rows == 0) {
      refused += c.about.id + ": not compared: " + c.about.needs + "\n";
      continue;
    }
    table.add({c.about.id, std::to_string(group.rows), format_fixed(Group::median(group.absolute), 1) + " %",
               group.with_interval == 0
                   ? "–"
                   : std::to_string(group.inside) + " of " + std::to_string(group.with_interval)});
  }
  return table.to_string() + refused;
}

}  // namespace orrery
