#include "reports/summary.h"

#include <algorithm>

#include "base/digest.h"
#include "base/text.h"
#include "reports/fleet_summary.h"

namespace orrery {

namespace {

double ms(std::int64_t ns) { return static_cast<double>(ns) * 1e-6; }

Json distribution_json(const Distribution& d) {
  if (d.count == 0) return nullptr;
  return {{"mean", d.mean * 1e-6}, {"p50", ms(d.p50)}, {"p90", ms(d.p90)},
          {"p95", ms(d.p95)},      {"p99", ms(d.p99)}, {"max", ms(d.max)}};
}

// Nothing completed (every request rejected): there is no last finish, and no time that passed.
double span_s(const RunResult& r) {
  return r.completed == 0 ? 0.0 : (r.last_finish - r.measured_from).seconds();
}
double per_second(std::uint64_t n, double span) { return span > 0 ? static_cast<double>(n) / span : 0; }

// Which distributions are no longer exact: one that has more than a million values.
std::string unanswered_text(const RunResult& r) {
  const auto count = [](std::uint64_t n) { return ", " + human_count(static_cast<double>(n)); };
  std::string out;
  if (r.rejected > 0) out += count(r.rejected) + " rejected (the engine does not take so long a prompt)";
  if (r.failed > 0) out += count(r.failed) + " failed";
  if (r.timed_out > 0) out += count(r.timed_out) + " timed out";
  if (r.cancelled > 0) out += count(r.cancelled) + " cancelled by their clients";
  if (r.warmup_requests > 0) out += count(r.warmup_requests) + " more in the warm-up, not measured,";
  return out;
}

std::string percentiles_text(const RunResult& r) {
  std::vector<std::string> binned;
  if (!r.ttft.exact) binned.emplace_back("ttft_ms");
  if (!r.tpot.exact) binned.emplace_back("tpot_ms");
  if (!r.itl.exact) binned.emplace_back("itl_ms");
  if (!r.e2e.exact) binned.emplace_back("e2e_ms");
  if (!r.queue.exact) binned.emplace_back("queue_ms");
  if (binned.empty()) return "exact";
  return "exact but for " + join(binned, ", ") + ": histogram, relative error at most 0.05 %";
}

Json throughput_json(const RunResult& r, std::int64_t gpus) {
  const double span = span_s(r);
  return {{"requests_per_s", per_second(r.completed, span)},
          {"input_tokens_per_s", per_second(r.input_tokens, span)},
          {"output_tokens_per_s", per_second(r.output_tokens, span)},
          {"output_tokens_per_s_per_gpu", per_second(r.output_tokens, span) / static_cast<double>(gpus)}};
}

std::uint64_t ended(const RunResult& r) {
  return r.completed + r.failed + r.cancelled + r.timed_out + r.rejected;
}

Json goodput_json(const RunResult& r) {
  if (!r.has_slo) return nullptr;
  const double span = span_s(r), all = static_cast<double>(ended(r));
  return {{"requests_per_s", per_second(r.slo_met, span)},
          {"output_tokens_per_s", per_second(r.slo_output_tokens, span)},
          {"attainment", all > 0 ? static_cast<double>(r.slo_met) / all : 0}};
}

Json kv_json(const RunResult& r) {
  Json pools = Json::array();
  for (const PoolResult& p : r.pools) {
    pools.push_back({{"name", p.name},
                     {"role", to_string(p.role)},
                     {"first_instance", p.first_instance},
                     {"instances", p.instances},
                     {"gpus_per_instance", p.gpus_per_instance},
                     {"tokens", p.kv_tokens()},
                     {"blocks", p.kv_blocks},
                     {"block_size", p.kv_block_size},
                     {"peak_utilization", p.peak_utilization}});
  }
  const PoolResult& first = r.pools.front();
  return {{"tokens", first.kv_tokens()},
          {"blocks", first.kv_blocks},
          {"block_size", first.kv_block_size},
          {"peak_utilization", first.peak_utilization},
          {"pools", pools}};
}

// Images: what they became, and what preparing and encoding them took. Null in a run without any.
Json images_json(const RunResult& r) {
  const ImageResult& i = r.images;
  if (i.arrived == 0) return nullptr;
  const double seen = static_cast<double>(i.encoded + i.found);
  return {{"images", i.arrived},
          {"fetches", i.fetches},
          {"fetched_bytes", i.fetched_bytes},
          {"tokens", i.tokens},
          {"text_tokens", r.input_tokens > i.tokens ? r.input_tokens - i.tokens : 0},
          {"encoded", i.encoded},
          {"embeddings", i.embeddings},
          {"encoder_cache_hit_rate", seen > 0 ? static_cast<double>(i.found) / seen : 0},
          {"encoder_cache_embeddings", i.cache_size},
          {"encoder_cache_peak", i.cache_peak},
          {"steps_with_encoder", i.passes},
          {"encoder_device_s", static_cast<double>(i.encoder_ns) * 1e-9},
          {"encoder_launch_s", static_cast<double>(i.encoder_launch_ns) * 1e-9},
          {"prepare_cpu_s", static_cast<double>(i.prepare_ns) * 1e-9},
          {"prepare_wait_s", static_cast<double>(i.prepare_wait_ns) * 1e-9},
          {"send_s", static_cast<double>(i.send_ns) * 1e-9},
          {"prepared_before", i.kept_prepared}};
}

Json offload_json(const RunResult& r) {
  const OffloadResult& o = r.offload;
  if (o.capacity == 0) return nullptr;
  return {{"capacity_blocks", o.capacity},   {"stored_blocks", o.stored},
          {"loaded_blocks", o.loaded},       {"dropped_blocks", o.dropped},
          {"refused_stores", o.refused},     {"requests_that_loaded", o.loads},
          {"deferred_lookups", o.deferrals}, {"device_wait_s", static_cast<double>(o.device_wait_ns) * 1e-9}};
}

Json pipeline_json(const PipelineResult& p) {
  return {{"stages", p.stages},
          {"stage_busy", p.busy},
          {"handoff", p.handoff},
          {"bubble", p.bubble},
          {"empty_batches", p.empty_batches}};
}

// Balancedness over time and the balancer's work; null where popularity is uniform and nobody balances.
Json experts_json(const RunResult& r) {
  const ExpertResult& e = r.experts;
  if (!e.on) return nullptr;
  Json series = Json::array();
  for (const ExpertResult::Sample& s : e.series)
    series.push_back({{"at_s", s.at.seconds()}, {"step", s.step}, {"balancedness", s.balancedness}});
  return {{"balancedness", {{"mean", e.balancedness}, {"least", e.least_balancedness}}},
          {"rebalances", e.rebalances},
          {"looks_without_change", e.looks_without_change},
          {"moved_experts", e.moved_experts},
          {"moved_bytes", e.moved_bytes},
          {"stall_s", static_cast<double>(e.stall_ns) * 1e-9},
          {"moving_s", static_cast<double>(e.moving_ns) * 1e-9},
          {"series", series}};
}

// What was served and not measured; null where everything was.
Json warmup_json(const RunResult& r) {
  if (r.warmup_requests == 0) return nullptr;
  return {{"requests", r.warmup_requests}, {"measured_from_s", r.measured_from.seconds()}};
}

// Steps that compiled a kernel; null where none did, or nobody asked.
Json first_use_json(const RunResult& r) {
  if (r.first_uses == 0) return nullptr;
  return {{"steps", r.first_uses}, {"stall_s", static_cast<double>(r.first_use_ns) * 1e-9}};
}

// KV between prefill and decode instances, and where the time to the first token went. Means of the parts add
// up to its mean; percentiles do not add up. Null in other deployments.
Json transfers_json(const RunResult& r) {
  const KvTransferResult& t = r.transfers;
  if (!t.on) return nullptr;
  Json links = Json::array();
  for (const KvTransferResult::Links& l : t.links) {
    links.push_back({{"class", l.link_class},
                     {"directions_used", l.used},
                     {"bytes", l.bytes},
                     {"utilization", l.utilization},
                     {"busiest", l.busiest},
                     {"busiest_utilization", l.busiest_utilization}});
  }
  return {{"pulls", t.pulls},
          {"failed", t.failed},
          {"retried", t.retried},
          {"bytes", t.bytes},
          {"links", links},
          {"ttft_parts_ms",
           {{"prefill_queue", distribution_json(t.queue)},
            {"prefill", distribution_json(t.prefill)},
            {"transfer_wait", distribution_json(t.wait)},
            {"transfer", distribution_json(t.transfer)},
            {"decode_queue", distribution_json(t.decode_queue)},
            {"first_step", distribution_json(t.first_step)}}}};
}

Json cost_json(const SummaryInput& in) {
  if (in.usd_per_gpu_hour <= 0) return nullptr;
  const FleetResult& fleet = in.run->fleet;  // where instances come and go, what is not off is paid
  const double hours = span_s(*in.run) / 3600.0,
               usd =
                   in.usd_per_gpu_hour * (fleet.on ? fleet.gpu_hours : hours * static_cast<double>(in.gpus));
  const double tokens = static_cast<double>(in.run->output_tokens);
  return {{"usd_per_gpu_hour", in.usd_per_gpu_hour},
          {"usd", usd},
          {"usd_per_million_output_tokens", tokens > 0 ? usd / tokens * 1e6 : 0}};
}

Json rate_json(const RateSearch& s) {
  Json points = Json::array();
  for (const RatePoint& p : s.points) {
    points.push_back({{"rate_factor", p.rate_factor},
                      {"requests_per_s", p.requests_per_s},
                      {"attainment", p.attainment},
                      {"meets", p.meets}});
  }
  return {{"found", s.found},
          {"rate_factor", s.found ? Json(s.best.rate_factor) : Json(nullptr)},
          {"requests_per_s", s.found ? Json(s.best.requests_per_s) : Json(nullptr)},
          {"attainment", s.found ? Json(s.best.attainment) : Json(nullptr)},
          {"tried", points}};
}

double ratio(std::uint64_t part, std::uint64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

// Accepted length as the engine logs it: tokens of a step with drafts, the bonus included.
double accepted_length(const SpeculationCounters& c) {
  return c.verifications > 0 ? 1 + ratio(c.accepted, c.verifications) : 0;
}

Json speculation_json(const SummaryInput& in) {
  if (in.speculation.empty()) return nullptr;
  const SpeculationCounters& c = in.run->speculation;
  Json marginal = Json::array(), conditional = Json::array();
  for (std::size_t i = 0; i < c.offered_at.size(); ++i) {
    const std::uint64_t reached = i == 0 ? c.offered_at[0] : c.accepted_at[i - 1];
    marginal.push_back(ratio(c.accepted_at[i], c.offered_at[i]));
    conditional.push_back(ratio(c.accepted_at[i], reached));
  }
  Json out{{"method", in.speculation},
           {"tokens", in.speculation_tokens},
           {"verifications", c.verifications},
           {"drafts", c.drafts},
           {"accepted", c.accepted},
           {"acceptance_rate", ratio(c.accepted, c.drafts)},
           {"mean_accepted_length", accepted_length(c)},
           {"tokens_per_decode", ratio(c.tokens, c.decodes)},
           {"acceptance_by_position", marginal},
           {"conditional_acceptance_by_position", conditional}};
  if (const auto& tree = in.speculation_tree; tree.verified > 0) {
    out["tree"] = {{"branches", tree.branches},
                   {"verified", tree.verified},
                   {"expected_accepted", tree.expected_accepted},
                   {"further_candidates", tree.assumed ? "assumed" : "given"}};
  }
  return out;
}

std::string speculation_text(const SummaryInput& in) {
  if (in.speculation.empty()) return "";
  const SpeculationCounters& c = in.run->speculation;
  const auto& tree = in.speculation_tree;
  const bool chain = tree.verified == 0;
  return "speculation " + in.speculation + ", " +
         (chain ? std::to_string(in.speculation_tokens) + " drafts a step: "
                : "trees of " + std::to_string(tree.verified - 1) + " drafts" +
                      (tree.assumed ? " (chances of further candidates assumed): " : ": ")) +
         format_fixed(100 * ratio(c.accepted, c.drafts), 1) + " % accepted, " +
         format_fixed(accepted_length(c), 2) + " tokens a verification, " +
         format_fixed(ratio(c.tokens, c.decodes), 2) + " a decode\n";
}

// Of each quantity that published figures moved the ends of: which pool of them, and the interval of prices
// and host times alone.
Json corrections_json(const Intervals& intervals) {
  Json out = Json::object();
  for (const MetricInterval& m : intervals.metrics) {
    if (!m.correction.empty())
      out[m.name] = {{"pool", m.correction}, {"prices_alone", {m.prices_low, m.prices_high}}};
  }
  return out;
}

}  // namespace

Json summary_json(const SummaryInput& in) {
  const RunResult& r = *in.run;
  Json j;
  j["requests"] = {{"completed", r.completed},
                   {"failed", r.failed},
                   {"cancelled", r.cancelled},
                   {"timed_out", r.timed_out},
                   {"rejected", r.rejected}};
  j["duration_s"] = span_s(r);
  j["ttft_ms"] = distribution_json(r.ttft);
  j["tpot_ms"] = distribution_json(r.tpot);
  j["itl_ms"] = distribution_json(r.itl);
  j["e2e_ms"] = distribution_json(r.e2e);
  j["queue_ms"] = distribution_json(r.queue);
  j["percentiles"] = percentiles_text(r);
  j["latencies_count"] = "completed requests; itl_ms: every gap between tokens that the engine sent";
  j["throughput"] = throughput_json(r, in.gpus);
  j["goodput"] = goodput_json(r);
  j["kv_cache"] = kv_json(r);
  j["prefix_cache_hit_rate"] = r.prefix_cache_hit_rate;
  j["preemptions"] = r.preemptions;
  j["steps"] = r.steps;
  j["saturated"] = r.saturated;
  j["interval_90"] = nullptr;
  j["intervals"] = nullptr;
  if (in.intervals != nullptr) {
    Json intervals = Json::object();
    for (const MetricInterval& m : in.intervals->metrics) intervals[m.name] = {m.low, m.high};
    j["interval_90"] = intervals;
    j["intervals"] = {{"runs", in.intervals->runs},
                      {"requests", in.intervals->requests},
                      {"shortened", in.intervals->shortened},
                      {"corrections", corrections_json(*in.intervals)}};
  }
  j["provenance"] = Json::object();
  for (const auto& [rung, share] : in.provenance) j["provenance"][rung] = share;
  j["what_if"] = in.what_if;
  j["cost"] = cost_json(in);
  j["find_rate"] = in.rate_search == nullptr ? Json(nullptr) : rate_json(*in.rate_search);
  j["gpus"] = in.gpus;
  j["images"] = images_json(r);
  j["kv_offload"] = offload_json(r);
  j["energy"] = in.energy;
  j["speculation"] = speculation_json(in);
  j["warmup"] = warmup_json(r);
  j["first_use"] = first_use_json(r);
  j["experts"] = experts_json(r);
  j["pipeline"] = r.pipeline.stages > 1 ? pipeline_json(r.pipeline) : Json();
  j["transfers"] = transfers_json(r);
  j["fleet"] = fleet_json(r.fleet);
  j["simulator"] = {{"wall_s", in.wall_s},
                    {"steps_per_s", per_second(r.steps, in.wall_s)},
                    {"requests_per_s", per_second(ended(r), in.wall_s)},
                    {"peak_rss_mb", in.peak_rss_mb},
                    {"stretches", r.stretches},
                    {"events", r.events},
                    {"prices", r.prices},
                    {"kv_pool_wraps", r.kv_wraps}};
  j["digest"] = digest_text(r.digest);
  j["seed"] = in.seed;
  j["version"] = in.version;
  return j;
}

namespace {

// Lines that only some runs have.
std::string lines_of_features(const RunResult& r) {
  std::string out;
  if (r.offload.capacity > 0) {
    const OffloadResult& o = r.offload;
    out += "host tier   " + human_count(static_cast<double>(o.stored)) + " blocks stored, " +
           human_count(static_cast<double>(o.loaded)) + " loaded for " +
           human_count(static_cast<double>(o.loads)) + " requests, " +
           human_count(static_cast<double>(o.dropped)) + " dropped; room for " +
           human_count(static_cast<double>(o.capacity)) + "\n";
  }
  if (r.pipeline.stages > 1) {
    const PipelineResult& p = r.pipeline;
    out += "stages      busy";
    for (const double share : p.busy) out += " " + format_fixed(100 * share, 1);
    out += " % of the time with a step on any of them, hand-offs " + format_fixed(100 * p.handoff, 1) +
           " %, bubble " + format_fixed(100 * p.bubble, 1) + " %; " +
           human_count(static_cast<double>(p.empty_batches)) + " empty batches\n";
  }
  if (r.transfers.on) {
    const KvTransferResult& t = r.transfers;
    const auto mean = [](const char* name, const Distribution& d) {
      return std::string(name) + " " + human_seconds(d.mean * 1e-9);
    };
    out += "first token " + mean("prefill queue", t.queue) + mean(" + prefill", t.prefill) +
           mean(" + transfer wait", t.wait) + mean(" + transfer", t.transfer) +
           mean(" + decode queue", t.decode_queue) + mean(" + first step", t.first_step) + " (means)\n";
    out += "KV moved    " + format_fixed(static_cast<double>(t.bytes) * 1e-9, 1) + " GB in " +
           human_count(static_cast<double>(t.pulls)) + " transfers";
    if (t.failed > 0)
      out += ", " + human_count(static_cast<double>(t.failed)) + " of which failed (" +
             human_count(static_cast<double>(t.retried)) + " requests sent again)";
    for (const KvTransferResult::Links& l : t.links)
      out += "; " + l.link_class + ": busiest direction " + format_fixed(100 * l.busiest_utilization, 2) +
             " % used";
    out += "\n";
  }
  out += fleet_text(r.fleet);
  if (r.first_uses > 0) {
    out += "first use   " + human_count(static_cast<double>(r.first_uses)) +
           " steps compiled a kernel, held up by " +
           human_seconds(static_cast<double>(r.first_use_ns) * 1e-9) + " in all\n";
  }
  if (r.experts.on) {
    const ExpertResult& e = r.experts;
    out += "experts     balancedness " + format_fixed(e.balancedness, 3) + " in the mean, " +
           format_fixed(e.least_balancedness, 3) + " at the least; " +
           human_count(static_cast<double>(e.rebalances)) + " rebalancings moved " +
           human_count(static_cast<double>(e.moved_experts)) + " experts, steps waited " +
           human_seconds(static_cast<double>(e.stall_ns) * 1e-9) + "\n";
  }
  if (r.images.arrived > 0) {
    const ImageResult& i = r.images;
    out += "images      " + human_count(static_cast<double>(i.arrived)) + " (" +
           human_count(static_cast<double>(i.tokens)) + " tokens), " +
           human_count(static_cast<double>(i.encoded)) + " encoded in " +
           human_seconds(static_cast<double>(i.encoder_ns) * 1e-9) + " of device time, prepared in " +
           human_seconds(static_cast<double>(i.prepare_ns) * 1e-9) + " of CPU time\n";
  }
  return out;
}

// " (812k … 818k)"; empty without an interval.
std::string capacity_ends(const SummaryInput& in) {
  if (in.intervals == nullptr) return "";
  for (const MetricInterval& m : in.intervals->metrics) {
    if (m.name == "kv_cache.tokens" && m.low < m.high)
      return " (" + human_count(m.low) + " … " + human_count(m.high) + ")";
  }
  return "";
}

}  // namespace

std::string doubts_of(const Intervals& intervals) {
  std::vector<std::string> pools;
  for (const MetricInterval& m : intervals.metrics) {
    if (m.name.starts_with("kv_cache.")) continue;  // no price has a part in it
    if (!m.correction.empty() && std::find(pools.begin(), pools.end(), m.correction) == pools.end())
      pools.push_back(m.correction);
  }
  if (pools.empty()) return "of prices and host times alone";
  return "of prices and host times, moved by published figures: " + join(pools, "; ");
}

std::string summary_text(const SummaryInput& in, const std::string& title) {
  const RunResult& r = *in.run;
  std::string out = title + "\n\n";
  const auto interval_of = [&](const std::string& name) -> std::string {
    if (in.intervals == nullptr) return "";
    for (const MetricInterval& m : in.intervals->metrics) {
      if (m.name == name) return format_fixed(m.low, 1) + " … " + format_fixed(m.high, 1);
    }
    return "";
  };
  TextTable table({"latency, ms", "mean", "p50", "p90", "p99", "max", "90 % interval of p50"});
  const auto row = [&](const char* name, const char* key, const Distribution& d) {
    if (d.count == 0) return;
    const auto cell = [](std::int64_t v) { return format_fixed(ms(v), 1); };
    table.add({name, format_fixed(d.mean * 1e-6, 1), cell(d.p50), cell(d.p90), cell(d.p99), cell(d.max),
               interval_of(std::string(key) + ".p50")});
  };
  row("TTFT", "ttft_ms", r.ttft);
  row("TPOT", "tpot_ms", r.tpot);
  row("ITL", "itl_ms", r.itl);
  row("E2E", "e2e_ms", r.e2e);
  out += table.to_string() + "\n" +
         (in.intervals == nullptr ? "" : "intervals   " + doubts_of(*in.intervals) + "\n");
  const double span = span_s(r);
  out += "requests    " + human_count(static_cast<double>(r.completed)) + " completed";
  out += unanswered_text(r);
  out += " in " + human_seconds(span) + (r.saturated ? "; SATURATED: the queue grew through the run" : "") +
         "\n";
  out += "throughput  " + format_fixed(per_second(r.completed, span), 2) + " requests/s, " +
         human_count(static_cast<double>(static_cast<std::int64_t>(per_second(r.output_tokens, span)))) +
         " output tokens/s on " + std::to_string(in.gpus) + (in.gpus == 1 ? " GPU\n" : " GPUs\n");
  if (r.has_slo) {
    const double all = static_cast<double>(ended(r));
    const double share = all > 0 ? 100.0 * static_cast<double>(r.slo_met) / all : 0;
    out += "SLO         " + format_fixed(share, 1) +
           " % of requests meet every limit (demanded: " + format_number(in.slo_percentile) +
           " %), goodput " + format_fixed(per_second(r.slo_met, span), 2) + " requests/s\n";
  }
  out += "KV cache    ";
  for (const PoolResult& pool : r.pools) {
    const std::string ends = &pool == &r.pools.front() ? capacity_ends(in) : "";
    out += (r.pools.size() > 1 ? pool.name + ": " : "") + human_count(static_cast<double>(pool.kv_tokens())) +
           (pool.ranks > 1 ? " tokens a rank" : " tokens an instance") + ends + ", peak use " +
           format_fixed(100 * pool.peak_utilization, 1) + " %" + (r.pools.size() > 1 ? "; " : ", ");
  }
  out += "prefix hits " + format_fixed(100 * r.prefix_cache_hit_rate, 1) + " %, " +
         human_count(static_cast<double>(r.preemptions)) + " preemptions\n";
  out += lines_of_features(r) + in.energy_text;
  out += speculation_text(in);
  if (in.rate_search != nullptr) {
    const RateSearch& s = *in.rate_search;
    out += s.found ? "find-rate   " + format_fixed(s.best.requests_per_s, 2) + " requests/s (" +
                         format_fixed(s.best.rate_factor, 3) +
                         " x the workload) is the highest rate that meets the SLO\n"
                   : "find-rate   not even " + format_fixed(s.points.back().rate_factor, 5) +
                         " x the workload meets the SLO\n";
  }
  out += "prices      ";
  for (std::size_t i = 0; i < in.provenance.size(); ++i) {
    out +=
        (i > 0 ? ", " : "") + format_fixed(100 * in.provenance[i].second, 0) + " % " + in.provenance[i].first;
  }
  out += std::string(in.what_if ? " (what-if)" : "") + "; digest " + digest_text(r.digest) + ", " +
         human_count(static_cast<double>(r.steps)) + " steps in " + human_seconds(in.wall_s) + "\n";
  return out;
}

}  // namespace orrery
