#include "sim/ensemble/interval_corrections.h"

#include <algorithm>
#include <filesystem>

#include "base/det_math.h"
#include "base/files.h"
#include "base/yaml_reader.h"

namespace orrery {

namespace {

IntervalPool read_pool(const Yaml& node) {
  IntervalPool pool;
  pool.quantity = node.require("quantity").text();
  pool.rung = node.optional("rung").text();
  pool.part = node.optional("part").text();
  pool.engine = node.optional("engine").text();
  pool.rows = node.require("rows").integer(0, 1);
  pool.cases = node.require("cases").integer(0, 1);
  pool.low = node.require("low").number(0, -100, 100);
  pool.high = node.require("high").number(0, -100, 100);
  return pool;
}

IntervalRegion read_region(const Yaml& node) {
  IntervalRegion region;
  region.rows = node.require("rows").integer(0, 1);
  region.cases = node.require("cases").integer(0, 1);
  region.centre = node.require("centre").number(0, -10, 10);
  region.spread = node.require("spread").number(0, 0, 10);
  if (const Yaml outside = node.optional("outside"); outside.present())
    region.outside = outside.number(0, 0, 10);
  return region;
}

}  // namespace

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

std::string pool_quantity_of(const std::string& metric) {
  const std::string quantity = quantity_of(metric);
  return quantity == "itl_ms" || quantity == "e2e_ms" ? "tpot_ms" : quantity;
}

const IntervalPool* IntervalCorrections::find(const std::string& metric, const PriceEvidence& e) const {
  return narrowest_of(pools, pool_quantity_of(metric), e);
}

IntervalRegion IntervalCorrections::region(const IntervalPool& pool, const std::string& metric,
                                           const PriceEvidence& evidence) const {
  IntervalRegion found;
  std::string name = quantity_of(metric);
  if (!regions.contains(name)) name = pool.quantity;
  const auto look = [&] {
    if (const auto at = regions.find(name); at != regions.end()) found = at->second;
  };
  look();
  for (const std::string& part : region_path(metric, evidence)) {
    name += ", " + part;
    look();  // a region of the same figures as the one around it is not listed
  }
  if (!knows_model(pool, metric, evidence)) found.spread = std::max(found.spread, found.outside);
  return found;
}

bool IntervalCorrections::knows_model(const IntervalPool& pool, const std::string& metric,
                                      const PriceEvidence& e) const {
  std::string name = quantity_of(metric);
  if (!regions.contains(name)) name = pool.quantity;
  name += ", " + e.rung + ", " + e.part + " " + engine_family(e.engine) + ", " + e.model;
  if (regions.contains(name)) return true;
  name += ", ";
  const auto inside = regions.lower_bound(name);  // one of the same figures as the one around is not listed
  return inside != regions.end() && inside->first.starts_with(name);
}

std::string IntervalCorrections::correct(const std::string& metric, const PriceEvidence& evidence,
                                         double predicted, double& low, double& high) const {
  const IntervalPool* const pool = find(metric, evidence);
  if (pool == nullptr || !(predicted > 0)) return "";
  const IntervalRegion at = region(*pool, metric, evidence);
  correct_bounds(*pool, at.centre, scatter_of(at.spread, low, high), predicted, low, high);
  return pool->name() + (knows_model(*pool, metric, evidence) ? "" : " (no figures of this model)");
}

double scatter_of(double region_spread, double low, double high) {
  const double doubt = low > 0 && high > low ? det_log(high / low) / 2 : 0;
  return region_spread + least_spread + share_of_price_doubt * doubt;
}

void correct_bounds(const IntervalPool& pool, double centre, double scatter, double predicted, double& low,
                    double& high) {
  low = std::min(predicted, predicted * det_exp(centre - pool.low * scatter));
  high = std::max(predicted, predicted * det_exp(centre + pool.high * scatter));
}

void correct_intervals(Intervals& intervals, const IntervalCorrections& corrections,
                       const PriceEvidence& evidence) {
  for (MetricInterval& m : intervals.metrics) {
    m.prices_low = m.low;
    m.prices_high = m.high;
    m.correction = corrections.correct(m.name, evidence, m.nominal, m.low, m.high);
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
  if (const Yaml capacity = root.optional("capacity"); capacity.present())
    out.capacity = {.rows = capacity.require("rows").integer(0, 1),
                    .cases = capacity.require("cases").integer(0, 1),
                    .deviations = capacity.require("deviations").number(0, 0, 100)};
  for (const Yaml& item : root.require("pools").items()) out.pools.push_back(read_pool(item));
  for (const Yaml& item : root.optional("regions").items())
    out.regions.insert_or_assign(item.require("of").text(), read_region(item));
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
