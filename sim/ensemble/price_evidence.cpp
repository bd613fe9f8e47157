#include "sim/ensemble/price_evidence.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "sim/costed/disaggregation.h"

namespace orrery {

namespace {

// From the surest down.
constexpr std::array<const char*, 4> kRungs = {"measured", "published", "transported", "roofline"};

std::size_t rank_of(const std::string& rung) {
  return static_cast<std::size_t>(std::find(kRungs.begin(), kRungs.end(), rung) - kRungs.begin());
}

// As tools name a load: of a uniform spread its upper end.
std::int64_t tokens_of(const LengthSpec& length) {
  switch (length.kind) {
    case LengthSpec::Kind::fixed: return std::llround(length.value);
    case LengthSpec::Kind::log_normal: return std::llround(length.mean);
    case LengthSpec::Kind::uniform: return std::llround(length.high);
    case LengthSpec::Kind::empirical:
      return length.quantiles.empty() ? 0 : std::llround(length.quantiles[length.quantiles.size() / 2]);
  }
  return 0;
}

const char* share_of_requests(const std::string& metric) {
  for (const char* const tail : {".p90", ".p95", ".p99", ".max"}) {
    if (metric.ends_with(tail)) return "tail";
  }
  return "middle";
}

const char* balance_of(const PriceEvidence& e) {
  if (e.prompt_tokens >= 4 * e.output_tokens) return "prompts";
  return e.output_tokens >= 4 * e.prompt_tokens ? "outputs" : "both";
}

const char* load_of(std::int64_t in_flight) {
  if (in_flight == 0) return "by rate";
  if (in_flight < 4) return "1 to 3";
  if (in_flight < 16) return "4 to 15";
  return in_flight < 64 ? "16 to 63" : "64 and more";
}

}  // namespace

std::string quantity_of(const std::string& metric) {
  if (metric.starts_with("throughput.")) return "throughput";
  return metric.substr(0, metric.find('.'));
}

std::string engine_family(const std::string& profile) {
  // The V0 engine of 2024 has another loop, and only static batches are asked of it.
  if (profile == "vllm-0.5" || profile.starts_with("vllm-0.5-")) return "vllm-v0";
  for (const char* const family : {"vllm", "sglang", "tensorrt-llm"}) {
    if (profile == family || profile.starts_with(std::string(family) + "-")) return family;
  }
  return profile;
}

std::string plan_name(const ParallelPlan& p) {
  return "tp " + std::to_string(p.tp) + (p.ep > 1 ? " ep " + std::to_string(p.ep) : "") +
         (p.pp > 1 ? " pp " + std::to_string(p.pp) : "") + (p.dp > 1 ? " dp " + std::to_string(p.dp) : "");
}

std::string main_rung(const RungShares& price_sources) {
  std::string rung;
  double most = 0;
  for (const auto& [name, share] : price_sources) {
    if (share < most || (share == most && rank_of(name) < rank_of(rung))) continue;
    rung = name;
    most = share;
  }
  return rung;
}

double share_of_tables(const RungShares& price_sources) {
  double share = 0, all = 0;
  for (const auto& [name, part] : price_sources) {
    all += part;
    if (name == "measured" || name == "published") share += part;
  }
  return all > 0 ? share / all : 0;  // what overlaps makes the shares add up to more than 1
}

PriceEvidence evidence_of(const Scenario& scenario, const RungShares& price_sources) {
  const InstanceSpec& first = scenario.pool.instance;
  PriceEvidence out{first.hardware.name, first.engine.name, main_rung(price_sources), first.model.name};
  out.plan = plan_name(first.plan);
  for (const PoolSpec* pool : scenario.pools()) {
    if (pool->instance.hardware.name != out.part) out.part.clear();
    if (pool->instance.engine.name != out.engine) out.engine.clear();
    if (pool->instance.model.name != out.model) out.model.clear();
    if (plan_name(pool->instance.plan) != out.plan) out.plan.clear();
  }
  if (is_disaggregated(scenario.pools())) out.plan = "apart";  // TTFT holds a router and a hand-off
  if (scenario.workload.generator) {
    out.prompt_tokens = tokens_of(scenario.workload.generator->input);
    out.output_tokens = tokens_of(scenario.workload.generator->output);
  }
  out.in_flight = scenario.workload.closed_loop_concurrency;
  out.tables = share_of_tables(price_sources);
  return out;
}

std::vector<std::string> region_path(const std::string& metric, const PriceEvidence& e) {
  std::vector<std::string> path;
  if (e.rung.empty()) return path;
  path.push_back(e.rung);
  if (e.part.empty() || e.engine.empty()) return path;
  path.push_back(e.part + " " + engine_family(e.engine));
  if (e.model.empty()) return path;
  path.push_back(e.model);
  path.push_back(e.engine);
  path.emplace_back(share_of_requests(metric));
  if (e.plan.empty()) return path;
  path.push_back(e.plan);
  if (e.prompt_tokens == 0 || e.output_tokens == 0) return path;
  path.emplace_back(balance_of(e));
  path.emplace_back(load_of(e.in_flight));
  return path;
}

}  // namespace orrery
