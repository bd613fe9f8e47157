#include "reports/html_report.h"

#include <map>

#include "base/digest.h"
#include "base/files.h"
#include "base/text.h"
#include "reports/page_parts.h"
#include "reports/report_page.h"

namespace orrery {

namespace {

Json curve(const Distribution& d) {
  Json out = Json::array();
  for (const std::int64_t v : d.curve) out.push_back(static_cast<double>(v) * 1e-6);
  return out;
}

Json series_json(const RunResult& r) {
  const TimeSeries& s = r.series;
  Json t = Json::array(), kv = Json::array();
  for (std::size_t i = 0; i < s.arrivals.size(); ++i) {
    t.push_back((s.start + SimDuration(s.width.ns() * static_cast<std::int64_t>(i))).seconds());
    kv.push_back(100.0 * s.kv_utilization[i]);
  }
  return {{"t", t},
          {"arrivals", s.arrivals},
          {"finished", s.finished},
          {"running", s.running},
          {"waiting", s.waiting},
          {"prefill_tokens", s.prefill_tokens},
          {"decode_tokens", s.decode_tokens},
          {"preemptions", s.preemptions},
          {"kv", kv}};
}

Json breakdown_json(const ReportInput& in) {
  Json out = Json::array();
  for (const auto& [name, step] : in.breakdowns) {
    Json ops = Json::array();
    const double busy = static_cast<double>(std::max<std::int64_t>(1, step.timing.busy));
    for (const OpLine& o : step.ops) {
      if (o.time_ns == 0) continue;
      ops.push_back({{"name", o.name},
                     {"us", static_cast<double>(o.time_ns) * 1e-3},
                     {"share", 100.0 * static_cast<double>(o.time_ns) / busy},
                     {"bound", o.bound},
                     {"class", to_string(o.op_class)},
                     {"color", static_cast<int>(o.op_class)}});
    }
    out.push_back({{"name", name}, {"ops", ops}});
  }
  return out;
}

Json memory_json(const MemoryPlan& m) {
  const auto gib = [](Bytes b) { return b.value() / 1073741824.0; };
  return Json::array({{{"name", "weights"}, {"gib", gib(m.weights)}},
                      {{"name", "activation peak"}, {"gib", gib(m.activation_peak)}},
                      {{"name", "graphs"}, {"gib", gib(m.graphs)}},
                      {{"name", "framework"}, {"gib", gib(m.residue)}},
                      {{"name", "KV cache"}, {"gib", gib(m.kv_available)}},
                      {{"name", "left to the driver and others"}, {"gib", gib(m.total - m.requested)}}});
}

const MetricInterval* interval_of(const SummaryInput& in, const std::string& name) {
  if (in.intervals == nullptr) return nullptr;
  for (const MetricInterval& m : in.intervals->metrics) {
    if (m.name == name) return &m;
  }
  return nullptr;
}

std::string interval_cell(const SummaryInput& in, const std::string& name, int decimals) {
  const MetricInterval* m = interval_of(in, name);
  if (m == nullptr) return "–";
  return format_fixed(m->low, decimals) + " … " + format_fixed(m->high, decimals);
}

std::string verdict(const ReportInput& in) {
  const RunResult& r = *in.summary->run;
  const SloSpec& slo = in.scenario->slo;
  if (!slo.given)
    return "<p class=\"verdict\">No SLO was given; the numbers below speak for themselves.</p>\n";
  const double all = static_cast<double>(r.completed + r.failed + r.cancelled + r.timed_out + r.rejected);
  const double share = all > 0 ? 100.0 * static_cast<double>(r.slo_met) / all : 0;
  const bool met = share >= slo.percentile;
  std::string limits;
  if (slo.ttft_ms > 0) limits += "TTFT ≤ " + format_number(slo.ttft_ms) + " ms";
  if (slo.tpot_ms > 0)
    limits += (limits.empty() ? "" : " and ") + ("TPOT ≤ " + format_number(slo.tpot_ms) + " ms");
  std::string out = std::string("<p class=\"verdict ") + (met ? "good" : "bad") + "\"><strong>" +
                    (met ? "Meets" : "Misses") + " the SLO.</strong> " + format_fixed(share, 2) +
                    " % of requests have " + limits + "; " + format_number(slo.percentile) +
                    " % are demanded";
  if (const MetricInterval* m = interval_of(*in.summary, "goodput.attainment")) {
    out += " (90 % interval of the share: " + format_fixed(100 * m->low, 1) + " … " +
           format_fixed(100 * m->high, 1) + " %)";
    if (met && 100 * m->low < slo.percentile) out += ", so that this is not safe";
    if (!met && 100 * m->high >= slo.percentile) out += ", so that it may yet";
  }
  out += ".";
  if (r.saturated) out += " <span class=\"warn\">Saturated: the queue grew through the run.</span>";
  return out + "</p>\n";
}

std::string tiles(const SummaryInput& in) {
  const RunResult& r = *in.run;
  const double span = (r.last_finish - r.measured_from).seconds();
  const auto rate = [&](std::uint64_t n) { return span > 0 ? static_cast<double>(n) / span : 0; };
  std::string out = "<div class=\"tiles\">";
  const auto tile = [&](const std::string& value, const std::string& name) {
    out += "<div class=\"tile\"><b>" + value + "</b><span>" + name + "</span></div>";
  };
  tile(human_count(static_cast<double>(r.completed)),
       "requests completed" +
           (r.rejected > 0 ? ", " + human_count(static_cast<double>(r.rejected)) + " rejected"
                           : std::string()) +
           (r.warmup_requests > 0 ? ", " + human_count(static_cast<double>(r.warmup_requests)) +
                                        " more in the warm-up are not measured"
                                  : std::string()));
  tile(format_fixed(rate(r.completed), 2), "requests per second");
  tile(human_count(static_cast<double>(static_cast<std::int64_t>(rate(r.output_tokens)))),
       "output tokens per second");
  tile(human_count(static_cast<double>(
           static_cast<std::int64_t>(rate(r.output_tokens) / static_cast<double>(in.gpus)))),
       "… per GPU (" + std::to_string(in.gpus) + ")");
  tile(format_fixed(100 * r.pools.front().peak_utilization, 1) + " %", "peak KV use");
  tile(format_fixed(100 * r.prefix_cache_hit_rate, 1) + " %", "prefix cache hits");
  tile(human_count(static_cast<double>(r.preemptions)), "preemptions");
  if (r.fleet.on) {
    tile(format_fixed(100 * r.fleet.availability, 2) + " %",
         "availability: " + std::to_string(r.fleet.instances_lost) + " instances and " +
             std::to_string(r.fleet.requests_lost) + " requests lost, " + std::to_string(r.failed) +
             " failed, " + std::to_string(r.fleet.scalings.size()) + " scale events");
  }
  if (r.experts.on) {
    tile(format_fixed(r.experts.balancedness, 3),
         "balancedness of expert ranks, " + std::to_string(r.experts.rebalances) + " rebalancings");
  }
  if (!in.speculation.empty()) {
    const SpeculationCounters& c = r.speculation;
    const double per_decode =
        c.decodes > 0 ? static_cast<double>(c.tokens) / static_cast<double>(c.decodes) : 0;
    const double share = c.drafts > 0 ? static_cast<double>(c.accepted) / static_cast<double>(c.drafts) : 0;
    const auto& tree = in.speculation_tree;
    const std::int64_t drafts = tree.verified > 0 ? tree.verified - 1 : in.speculation_tokens;
    tile(format_fixed(per_decode, 2), "tokens a decode (" + in.speculation + ", " + std::to_string(drafts) +
                                          " drafts, " + format_fixed(100 * share, 1) + " % accepted)");
  }
  return out + "</div>\n";
}

std::string latency_table(const SummaryInput& in) {
  const RunResult& r = *in.run;
  std::string out =
      "<div class=\"scroll\"><table><caption>Latency in milliseconds; intervals from " +
      (in.intervals == nullptr ? std::string("no") : std::to_string(in.intervals->runs)) +
      " paired runs with perturbed "
      "prices</caption><thead><tr><th>metric</th><th>mean</th><th>p50</th><th>p90</th><th>p95</th>"
      "<th>p99</th><th>max</th><th>90 % interval, p50</th><th>90 % interval, p99</th></tr></thead><tbody>";
  const auto row = [&](const char* name, const std::string& key, const Distribution& d) {
    if (d.count == 0) return;
    const auto cell = [](double ms) { return "<td>" + format_fixed(ms, 2) + "</td>"; };
    const auto ms = [](std::int64_t v) { return static_cast<double>(v) * 1e-6; };
    out += std::string("<tr><td>") + name + "</td>" + cell(d.mean * 1e-6) + cell(ms(d.p50)) +
           cell(ms(d.p90)) + cell(ms(d.p95)) + cell(ms(d.p99)) + cell(ms(d.max)) + "<td>" +
           interval_cell(in, key + ".p50", 1) + "</td><td>" + interval_cell(in, key + ".p99", 1) +
           "</td></tr>";
  };
  row("TTFT", "ttft_ms", r.ttft);
  row("TPOT", "tpot_ms", r.tpot);
  row("ITL", "itl_ms", r.itl);
  row("E2E", "e2e_ms", r.e2e);
  row("queue", "queue_ms", r.queue);
  return out + "</tbody></table></div>\n";
}

std::string chart(const char* id, const char* label, bool low = false) {
  return std::string("<div class=\"chart") + (low ? " short" : "") + "\" id=\"" + id +
         "\" role=\"img\" aria-label=\"" + label + "\"></div>\n";
}

std::string breakdown_table(const StepBreakdown& step, const std::string& name) {
  std::string out =
      "<div class=\"scroll\"><table><caption>" + escape_html(name) + ": " +
      format_fixed(static_cast<double>(step.device_ns) * 1e-6, 3) + " ms on the device (90 % interval " +
      format_fixed(static_cast<double>(step.low_ns) * 1e-6, 3) + " … " +
      format_fixed(static_cast<double>(step.high_ns) * 1e-6, 3) + "), bound by " + escape_html(step.bound) +
      ", graph mode " + escape_html(step.graph_mode) +
      "</caption><thead><tr><th>operator</th><th>launches</th><th>GFLOP</th><th>MB</th><th>µs</th>"
      "<th>bound</th><th>price from</th></tr></thead><tbody>";
  for (const OpLine& o : step.ops) {
    if (o.time_ns == 0) continue;
    out += "<tr><td>" + escape_html(o.name) + "</td><td>" + std::to_string(o.count) + "</td><td>" +
           format_fixed(o.flops * 1e-9, 2) + "</td><td>" + format_fixed(o.bytes * 1e-6, 1) + "</td><td>" +
           format_fixed(static_cast<double>(o.time_ns) * 1e-3, 1) + "</td><td>" + escape_html(o.bound) +
           "</td><td>" + escape_html(o.rung) + "</td></tr>";
  }
  return out + "</tbody></table></div>\n";
}

std::string device_table(const RunResult& r) {
  std::string out =
      "<table><caption>Device time of all instances</caption><thead><tr><th>kind of "
      "step</th><th>seconds</th><th>share</th></tr></thead><tbody>";
  for (const auto& [name, ns] : r.device_time) {
    const double share =
        r.device_busy_ns > 0 ? 100.0 * static_cast<double>(ns) / static_cast<double>(r.device_busy_ns) : 0;
    out += "<tr><td>" + escape_html(name) + "</td><td>" + format_fixed(static_cast<double>(ns) * 1e-9, 2) +
           "</td><td>" + format_fixed(share, 1) + " %</td></tr>";
  }
  return out + "</tbody></table>\n";
}

std::string provenance(const ReportInput& in) {
  std::string out = "<p>";
  for (const auto& [rung, share] : in.summary->provenance)
    out += format_fixed(100 * share, 0) + " % of the predicted device time is priced by rung “" +
           escape_html(rung) + "”. ";
  out +=
      "No kernel was measured for this prediction: peak rates are data-sheet figures, efficiencies are cited "
      "or assumed, and each stands "
      "with its source in the resolved scenario below.";
  if (in.summary->what_if)
    out +=
        " <strong>What-if: the scenario changes operator times, host times or figures "
        "(overrides).</strong>";
  if (in.summary->intervals != nullptr)
    out += " Intervals: " + escape_html(doubts_of(*in.summary->intervals)) + ".";
  if (in.summary->intervals != nullptr && in.summary->intervals->shortened)
    out += " Intervals cover the first " + std::to_string(in.summary->intervals->requests) + " requests.";
  out +=
      "</p><table><caption>Efficiency of kernel classes on this part: achieved ÷ data "
      "sheet</caption><thead><tr><th>class</th><th>value</th>"
      "<th>error (log sd)</th><th>kind</th><th>source</th></tr></thead><tbody>";
  for (const auto& [name, e] : in.scenario->pool.instance.hardware.efficiency) {
    out += "<tr><td>" + escape_html(name) + "</td><td>" + format_number(e.value.value) + "</td><td>" +
           format_number(e.error) + "</td><td>" + to_string(e.value.kind) +
           "</td><td style=\"text-align:left\">" + escape_html(e.value.source) + "</td></tr>";
  }
  return out + "</tbody></table>\n";
}

// Prefill and decode apart: the parts of the time to the first token, and what the links carried.
std::string transfers_table(const KvTransferResult& t) {
  if (!t.on) return "";
  std::string out =
      "<h2>From prefill to decode</h2>\n<table><caption>Parts of the time to the first token in "
      "milliseconds; "
      "means add up, percentiles do "
      "not</caption><thead><tr><th>part</th><th>mean</th><th>p50</th><th>p90</th>"
      "<th>p99</th><th>max</th></tr></thead><tbody>";
  const auto ms = [](double ns) { return "<td>" + format_fixed(ns * 1e-6, 3) + "</td>"; };
  const auto row = [&](const char* name, const Distribution& d) {
    out += std::string("<tr><td>") + name + "</td>" + ms(d.mean);
    for (const std::int64_t ns : {d.p50, d.p90, d.p99, d.max}) out += ms(static_cast<double>(ns));
    out += "</tr>";
  };
  row("queue at the prefill instance", t.queue);
  row("prefill", t.prefill);
  row("waiting for blocks at the decode instance", t.wait);
  row("transfer", t.transfer);
  row("queue at the decode instance", t.decode_queue);
  row("its first step", t.first_step);
  out +=
      "</tbody></table>\n<table><caption>" + format_fixed(static_cast<double>(t.bytes) * 1e-9, 2) +
      " GB of KV in " + human_count(static_cast<double>(t.pulls)) +
      " transfers</caption><thead><tr><th>links</th><th>directions used</th><th>GB</th><th>mean use, %</th>"
      "<th>busiest</th><th>its use, %</th></tr></thead><tbody>";
  for (const KvTransferResult::Links& l : t.links) {
    out += "<tr><td>" + escape_html(l.link_class) + "</td><td>" + std::to_string(l.used) + "</td><td>" +
           format_fixed(static_cast<double>(l.bytes) * 1e-9, 2) + "</td><td>" +
           format_fixed(100 * l.utilization, 2) + "</td><td>" + escape_html(l.busiest) + "</td><td>" +
           format_fixed(100 * l.busiest_utilization, 2) + "</td></tr>";
  }
  return out + "</tbody></table>\n";
}

// The first instance's balancedness, at the start and at every change of popularity or places.
std::string experts_table(const ExpertResult& e) {
  if (!e.on) return "";
  constexpr std::size_t most = 40;
  std::string out =
      "<div class=\"scroll\"><table><caption>Balancedness of expert ranks (mean load ÷ largest, over all "
      "layers, of many tokens) as popularity and places change" +
      std::string(e.series.size() > most ? "; the first " + std::to_string(most) + " of " +
                                               std::to_string(e.series.size()) + " changes"
                                         : "") +
      "</caption><thead><tr><th>from, s</th><th>step</th><th>balancedness</th></tr></thead><tbody>";
  for (std::size_t i = 0; i < std::min(most, e.series.size()); ++i) {
    const ExpertResult::Sample& s = e.series[i];
    out += "<tr><td>" + format_fixed(s.at.seconds(), 3) + "</td><td>" + std::to_string(s.step) + "</td><td>" +
           format_fixed(s.balancedness, 3) + "</td></tr>";
  }
  return out + "</tbody></table></div>\n";
}

std::string body(const ReportInput& in) {
  const RunResult& r = *in.summary->run;
  std::string out = "<main>\n<h1>" + escape_html(in.title) + "</h1>\n<p class=\"sub\">Orrery " +
                    escape_html(in.summary->version) + " · seed " + std::to_string(in.summary->seed) +
                    " · digest " + digest_text(r.digest) + " · predicted, not measured</p>\n";
  out += verdict(in) + tiles(*in.summary);
  out += "<h2>Latency</h2>\n" + latency_table(*in.summary) +
         chart("chart-first", "Percentile curves of TTFT and E2E") +
         chart("chart-token", "Percentile curves of TPOT and ITL");
  out += "<h2>Through the run</h2>\n" +
         chart("chart-load", "Arrivals and finished requests per second over time", true) +
         chart("chart-queue", "Running and waiting requests over time", true) +
         chart("chart-tokens", "Prefill and decode tokens per second over time", true) +
         chart("chart-kv", "KV cache use and preemptions over time", true);
  out += experts_table(r.experts) + transfers_table(r.transfers);
  out += "<h2>Where the time goes</h2>\n" + device_table(r);
  if (!in.breakdowns.empty())
    out += chart("chart-ops", "Share of device time by operator in typical steps", true);
  for (const auto& [name, step] : in.breakdowns) out += breakdown_table(step, name);
  out += "<h2>Memory of one GPU</h2>\n" + chart("chart-memory", "Memory plan of one GPU", true);
  const Intervals* const intervals = in.summary->intervals;
  const double deviations = intervals == nullptr ? 0 : intervals->capacity_deviations;
  for (const PoolSpec* pool : in.scenario->pools()) {
    if (!in.scenario->other_pools.empty()) out += "<p>Pool " + escape_html(pool->name) + "</p>";
    out += "<pre>" + escape_html(pool->memory.to_table(deviations)) + "</pre>\n";
  }
  out += "<h2>How sure is this?</h2>\n" + provenance(in);
  out += "<h2>Reproduce</h2>\n<pre>" + escape_html(in.command) + "</pre>\n<pre>" +
         escape_html(in.scenario->resolved_yaml()) + "</pre>\n</main>\n";
  return out;
}

}  // namespace

Status write_report(const std::string& path, const ReportInput& input) {
  const RunResult& r = *input.summary->run;
  Json data;
  data["curves"] = {
      {"ttft", curve(r.ttft)}, {"tpot", curve(r.tpot)}, {"itl", curve(r.itl)}, {"e2e", curve(r.e2e)}};
  data["series"] = series_json(r);
  data["breakdowns"] = breakdown_json(input);
  data["memory"] = memory_json(input.scenario->pool.memory);
  ORRERY_TRY(scripts, page_scripts(data));
  ORRERY_TRY(file, AtomicFile::create(path));
  file.write(report_head);
  file.write(body(input));
  file.write(scripts);
  file.write(report_tail);
  return file.commit();
}

}  // namespace orrery
