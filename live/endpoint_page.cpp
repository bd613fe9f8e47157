// comparison.html: what clients saw beside the prediction, as tables and charts.
#include <algorithm>

#include "base/text.h"
#include "live/endpoint_comparison.h"
#include "reports/page_parts.h"
#include "reports/report_page.h"

namespace orrery {

namespace {

double ms(std::int64_t ns) { return static_cast<double>(ns) * 1e-6; }

std::string row(const std::vector<std::string>& cells, const char* tag = "td") {
  std::string out = "<tr>";
  for (const std::string& c : cells) out += std::string("<") + tag + ">" + escape_html(c) + "</" + tag + ">";
  return out + "</tr>\n";
}

std::string table(const std::vector<std::string>& head, const std::vector<std::vector<std::string>>& rows) {
  std::string out = "<table>\n" + row(head, "th");
  for (const auto& r : rows) out += row(r);
  return out + "</table>\n";
}

std::string chart(const char* id, const char* label) {
  return std::string("<div class=\"chart\" id=\"") + id + "\" role=\"img\" aria-label=\"" + label +
         "\"></div>\n";
}

std::string signed_text(double value, int digits) {
  return (value > 0 ? "+" : "") + format_fixed(value, digits);
}

std::string metrics_table(const EndpointComparison& comparison, const EndpointRun& run) {
  const bool interval = comparison.compared.runs > 0;
  std::vector<std::vector<std::string>> rows;
  for (const ComparedMetric& m : comparison.compared.metrics)
    rows.push_back({m.name, format_fixed(m.predicted, 2),
                    interval ? format_fixed(m.low, 2) + " … " + format_fixed(m.high, 2) : "-",
                    format_fixed(m.measured, 2), signed_text(m.error_percent(), 1) + " %",
                    interval ? (m.inside() ? "yes" : "no") : "-"});
  if (run.kv_blocks > 0) {  // a plan, which has no interval
    const auto planned = static_cast<double>(comparison.kv_blocks), said = static_cast<double>(run.kv_blocks);
    rows.push_back({"kv_cache.blocks", std::to_string(comparison.kv_blocks), "-",
                    std::to_string(run.kv_blocks), signed_text((planned / said - 1) * 100, 1) + " %", "-"});
  }
  return table({"metric", "predicted", "90 % interval", "measured", "error", "inside"}, rows);
}

std::string steps_part(const StepEvidence& e) {
  std::string out =
      "<h2>Where the error comes from</h2>\n<p>Means over requests, ms: predicted less measured, split by "
      "running the same load with logged step times and with logged outcomes. " +
      std::to_string(e.identical) + " of " + std::to_string(e.steps) +
      " steps of the log are composed as the engine composed them.</p>\n";
  std::vector<std::vector<std::string>> rows;
  for (const Attribution& a : e.attribution)
    rows.push_back({a.metric, std::to_string(a.requests), format_fixed(a.predicted, 2),
                    format_fixed(a.measured, 2), signed_text(a.predicted - a.measured, 2),
                    signed_text(a.step_time, 2), signed_text(a.host, 2), signed_text(a.queueing, 2),
                    signed_text(a.transfer, 2), signed_text(a.front_end, 2)});
  out += table({"metric", "requests", "predicted", "measured", "error", "step time", "host", "queueing",
                "transfer", "front end"},
               rows) +
         chart("parts", "Parts of the error") + "<h2>Steps</h2>\n<p>Predicted ÷ logged − 1, medians.</p>\n";
  rows.clear();
  for (const StepKind& k : e.kinds) {
    std::string ops;
    for (const auto& [name, share] : k.ops) {
      if (share >= 1) ops += (ops.empty() ? "" : ", ") + name + " " + format_fixed(share, 0);
    }
    rows.push_back({k.name, std::to_string(k.steps), format_fixed(k.device_ms, 0),
                    signed_text(k.device, 1) + " %", format_fixed(k.device_p90, 1) + " %",
                    signed_text(k.host, 1) + " %", ops});
  }
  out += table(
      {"steps", "n", "device, ms", "device time", "p90 of |error|", "host time", "share of the price, %"},
      rows);
  rows.clear();
  for (const ClassResidual& c : e.classes)
    rows.push_back({c.factor.key, format_fixed(c.share, 1) + " %",
                    c.factor.fitted ? format_fixed(c.factor.value, 3) : "-",
                    c.factor.fitted ? format_fixed(c.factor.deviation, 3) : "-", c.factor.note});
  return out +
         "<p>Operator classes: the factors that make the priced classes add up best to the logged "
         "steps.</p>\n" +
         table({"class", "share of the price", "logged ÷ priced", "deviation", ""}, rows);
}

// As kernel_profile_json has them.
std::string launches_part(const Json& profile) {
  std::string out;
  const auto number = [](const Json& from, const char* key, int digits) {
    return format_fixed(from[key].get<double>(), digits);
  };
  for (const auto& [kind, k] : profile.items()) {
    std::vector<std::vector<std::string>> rows;
    for (const Json& each : k["kernels"])
      rows.push_back({each["use"].get<std::string>(), each["class"].get<std::string>(),
                      number(each, "launches", 0), number(each, "measured_us", 1),
                      number(each, "priced_us", 1),
                      signed_text(each["error_percent"].get<double>(), 1) + " %",
                      number(each, "share_percent", 1) + " %"});
    out += "<h2>Launches of " + escape_html(kind) + " steps</h2>\n<p>" + number(k, "steps", 0) +
           " steps of the rehearsal, means: " + number(k, "own_ms", 3) + " ms as they came, launched in " +
           number(k, "launch_ms", 3) + " ms; " + number(k, "graph_ms", 3) +
           " ms from one graph; kernels are priced " + number(k, "priced_ms", 3) + " ms.</p>\n" +
           table({"use", "class", "launches", "measured, us", "priced, us", "error", "share"}, rows);
  }
  return out;
}

Json series_json(const TimeSeries& s) {
  Json t = Json::array();
  for (std::size_t i = 0; i < s.running.size(); ++i)
    t.push_back((s.start.seconds() + s.width.seconds() * (static_cast<double>(i) + 0.5)));
  return {{"t", t}, {"running", s.running}, {"waiting", s.waiting}, {"kv", s.kv_utilization}};
}

Json page_data(const EndpointComparison& comparison, const EndpointRun& run) {
  Json measured = Json::array(), predicted = Json::array(), scrapes = Json::array(), parts = Json::array();
  for (const EndpointRecord& r : run.records) {
    if (r.status != RequestStatus::completed) continue;
    const Json tpot = r.output_tokens > 1
                          ? Json(ms(r.last - r.first) / static_cast<double>(r.output_tokens - 1))
                          : Json(nullptr);
    measured.push_back({static_cast<double>(r.intended) * 1e-9, ms(r.first - r.intended), tpot});
  }
  for (const RequestRecord& r : comparison.predicted) {
    if (r.status != RequestStatus::completed) continue;
    const Json tpot =
        r.output_tokens > 1 ? Json((r.e2e - r.ttft).milliseconds() / (r.output_tokens - 1)) : Json(nullptr);
    predicted.push_back({r.arrival.seconds(), r.ttft.milliseconds(), tpot});
  }
  for (const EndpointScrape& s : run.scrapes) scrapes.push_back({s.at_s, s.running, s.waiting, s.kv_usage});
  if (comparison.steps) {
    for (const Attribution& a : comparison.steps->attribution)
      parts.push_back(
          {{"metric", a.metric}, {"parts", {a.step_time, a.host, a.queueing, a.transfer, a.front_end}}});
  }
  return {{"measured", measured},
          {"predicted", predicted},
          {"scrapes", scrapes},
          {"series", series_json(comparison.series)},
          {"parts", parts}};
}

}  // namespace

Result<std::string> endpoint_page(const EndpointComparison& comparison, const EndpointRun& run,
                                  const std::string& title, const std::string& command) {
  std::string scripts;
  if (!charts_library().empty()) {  // else the tables have to do
    ORRERY_TRY(packed, page_scripts(page_data(comparison, run)));
    scripts = std::move(packed);
  }
  std::string body =
      "<main>\n<h1>Predicted against measured</h1>\n<p class=\"sub\">" + escape_html(title) +
      "</p>\n<p>Verdict: <b>" + escape_html(comparison.verdict) + "</b>" +
      (comparison.missed.empty() ? "" : ", missed: " + escape_html(join(comparison.missed, ", "))) +
      "</p>\n" + metrics_table(comparison, run) + "<h2>Latencies</h2>\n" +
      chart("cdf-ttft", "Share of requests by TTFT, predicted and measured") +
      chart("cdf-tpot", "Share of requests by TPOT, predicted and measured") + "<h2>Over time</h2>\n" +
      chart("time-ttft", "TTFT of requests over time") +
      chart("time-load", "Requests running and waiting over time") +
      chart("time-kv", "KV blocks in use over time");
  if (comparison.steps) body += steps_part(*comparison.steps);
  if (!comparison.launches.is_null()) body += launches_part(comparison.launches);
  Json json = endpoint_json(comparison, run);
  json["server"].erase("metrics");
  body += "<h2>Client and server</h2>\n<pre>" + escape_html(canonical_json(json["client"])) +
          "</pre>\n<pre>" + escape_html(canonical_json(json["server"])) + "</pre>\n<ul>\n";
  for (const std::string& note : comparison.compared.notes) body += "<li>" + escape_html(note) + "</li>\n";
  return report_head + body + "</ul>\n<p><code>" + escape_html(command) + "</code></p>\n</main>\n" +
         (scripts.empty() ? "</body>\n</html>\n" : scripts + comparison_tail);
}

}  // namespace orrery
