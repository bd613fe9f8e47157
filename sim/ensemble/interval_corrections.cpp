#include "sim/ensemble/interval_corrections.h"

#include <algorithm>
#include <array>
#include <filesystem>

#include "base/det_math.h"
#include "base/files.h"
#include "base/yaml_reader.h"

namespace orrery {

namespace {

// From the surest down.
constexpr std::array<const char*, 4> kRungs = {"measured", "published", "transported", "roofline"};

std::size_t rank_of(const std::string& rung) {
  return static_cast<std::size_t>(std::find(kRungs.begin(), kRungs.end(), rung) - kRungs.begin());
}

IntervalPool read_pool(const Yaml& node) {
  IntervalPool pool;
  pool.quantity = node.require("quantity").text();
  pool.rung = node.optional("rung").text();
  pool.part = node.optional("part").text();
  pool.engine = node.optional("engine").text();
  pool.rows = node.require("rows").integer(0, 1);
  pool.cases = node.require("cases").integer(0, 1);
  pool.low = node.require("low").number(0, -10, 10);
  pool.high = node.require("high").number(0, -10, 10);
  return pool;
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

PriceEvidence evidence_of(const Scenario& scenario, const RungShares& price_sources) {
  PriceEvidence out{scenario.pool.instance.hardware.name, scenario.pool.instance.engine.name,
                    main_rung(price_sources)};
  for (const PoolSpec* pool : scenario.pools()) {
    if (pool->instance.hardware.name != out.part) out.part.clear();
    if (pool->instance.engine.name != out.engine) out.engine.clear();
  }
  return out;
}

std::string IntervalPool::name() const {
  return quantity + (rung.empty() ? "" : ", " + rung) + (part.empty() ? "" : ", " + part + " " + engine);
}

namespace {

const IntervalPool* narrowest_of(const std::vector<IntervalPool>& pools, const std::string& quantity,
                                 const PriceEvidence& e) {
  const std::string family = engine_family(e.engine);
  const IntervalPool* found = nullptr;
  int narrowest = 0;
  for (const IntervalPool& pool : pools) {
    const bool holds = pool.quantity == quantity && (pool.rung.empty() || pool.rung == e.rung) &&
                       (pool.part.empty() || (pool.part == e.part && pool.engine == family));
    const int narrow = 1 + (pool.rung.empty() ? 0 : 1) + (pool.part.empty() ? 0 : 1);
    if (!holds || narrow <= narrowest) continue;
    found = &pool;
    narrowest = narrow;
  }
  return found;
}

}  // namespace

const IntervalPool* IntervalCorrections::find(const std::string& metric, const PriceEvidence& e) const {
  const std::string quantity = quantity_of(metric);
  if (const IntervalPool* own = narrowest_of(pools, quantity, e)) return own;
  // Too few cases of their own: both are sums of the times of tokens.
  return quantity == "itl_ms" || quantity == "e2e_ms" ? narrowest_of(pools, "tpot_ms", e) : nullptr;
}

void correct_bounds(const IntervalPool& pool, double predicted, double& low, double& high) {
  low = std::min(predicted, low * det_exp(-pool.low));
  high = std::max(predicted, high * det_exp(pool.high));
}

void correct_intervals(Intervals& intervals, const IntervalCorrections& corrections,
                       const PriceEvidence& evidence) {
  for (MetricInterval& m : intervals.metrics) {
    m.prices_low = m.low;
    m.prices_high = m.high;
    const IntervalPool* const pool = corrections.find(m.name, evidence);
    if (pool == nullptr || !(m.nominal > 0)) continue;
    correct_bounds(*pool, m.nominal, m.low, m.high);
    m.correction = pool->name();
  }
}

Result<IntervalCorrections> load_interval_corrections(const std::string& path) {
  ORRERY_TRY(document, YamlDocument::load(path));
  const Yaml root = document.root();
  IntervalCorrections out;
  for (const Yaml& input : root.optional("inputs").items()) {
    input.require("file").text();
    input.require("digest").text();
  }
  for (const Yaml& item : root.require("pools").items()) out.pools.push_back(read_pool(item));
  document.finish();
  if (!document.errors().empty()) return document.errors();
  return out;
}

Result<IntervalCorrections> shipped_interval_corrections() {
  std::error_code ec;
  const std::string path = interval_corrections_path();
  if (!std::filesystem::exists(path, ec)) return IntervalCorrections();
  return load_interval_corrections(path);
}

std::string interval_corrections_path() {
  return data_directory() + "/reports/cases/interval_corrections.yaml";
}

}  // namespace orrery
