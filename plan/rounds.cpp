#include "plan/rounds.h"

#include <algorithm>
#include <array>
#include <optional>

#include "base/json.h"
#include "sim/costed/run.h"
#include "sim/ensemble/interval_corrections.h"

namespace orrery {

namespace {

// Name and place of every number that is kept.
struct NumberField {
  const char* name;
  double PlanScore::*field;
};
constexpr std::array number_fields = {
    NumberField{"attainment", &PlanScore::attainment},
    NumberField{"objective", &PlanScore::objective},
    NumberField{"mean_e2e_ms", &PlanScore::mean_e2e_ms},
    NumberField{"ttft_ms", &PlanScore::ttft_ms},
    NumberField{"tpot_ms", &PlanScore::tpot_ms},
    NumberField{"output_tokens_per_s", &PlanScore::output_tokens_per_s},
    NumberField{"requests_per_s", &PlanScore::requests_per_s},
    NumberField{"usd_per_hour", &PlanScore::usd_per_hour},
    NumberField{"usd_per_million", &PlanScore::usd_per_million},
    NumberField{"kv_peak", &PlanScore::kv_peak},
};

Json score_json(const PlanScore& score) {
  Json out;
  out["replicas"] = score.replicas;
  out["gpus"] = score.gpus;
  out["has_slo"] = score.has_slo;
  out["meets"] = score.meets;
  out["saturated"] = score.saturated;
  for (const NumberField& f : number_fields) out[f.name] = score.*f.field;
  if (!score.refused.empty()) out["refused"] = score.refused;
  return out;
}

PlanScore score_from(const Json& in) {
  PlanScore score;
  score.replicas = in.at("replicas").get<std::int64_t>();
  score.gpus = in.at("gpus").get<std::int64_t>();
  score.has_slo = in.at("has_slo").get<bool>();
  score.meets = in.at("meets").get<bool>();
  score.saturated = in.at("saturated").get<bool>();
  for (const NumberField& f : number_fields) score.*f.field = in.at(f.name).get<double>();
  score.refused = in.value("refused", "");
  return score;
}

Error damaged(const char* what) {
  return invalid_input(std::string("the search's store holds a damaged ") + what +
                       "; leave --resume out to begin anew");
}

Json interval_json(const MetricInterval& m) {
  return Json{{"name", m.name},
              {"nominal", m.nominal},
              {"low", m.low},
              {"high", m.high},
              {"correction", m.correction},
              {"prices_low", m.prices_low},
              {"prices_high", m.prices_high}};
}

std::string finalist_text(const Finalist& finalist) {
  Json out;
  out["draws"] = Json::array();
  for (const PlanScore& score : finalist.draws) out["draws"].push_back(score_json(score));
  out["intervals"] = Json::array();
  for (const MetricInterval& m : finalist.intervals.metrics) out["intervals"].push_back(interval_json(m));
  return out.dump();
}

Status read_finalist(const std::string& text, std::size_t draws, Finalist& finalist) {
  try {
    const Json in = Json::parse(text);
    for (const Json& score : in.at("draws")) finalist.draws.push_back(score_from(score));
    if (finalist.draws.size() != draws) return damaged("finalist");
    for (const Json& m : in.at("intervals")) {
      finalist.intervals.metrics.push_back({.name = m.at("name"),
                                            .nominal = m.at("nominal"),
                                            .low = m.at("low"),
                                            .high = m.at("high"),
                                            .correction = m.at("correction"),
                                            .prices_low = m.at("prices_low"),
                                            .prices_high = m.at("prices_high")});
    }
  } catch (const Json::exception&) { return damaged("finalist"); }
  return ok_status();
}

// The scores of the perturbed runs travel through the ensemble as metrics of these names.
constexpr const char* score_prefix = "plan.";

void append_score(const PlanScore& score, std::vector<MetricInterval>& metrics) {
  const auto add = [&](const std::string& name, double value) {
    metrics.push_back({.name = score_prefix + name, .nominal = value});
  };
  add("meets", score.meets ? 1 : 0);
  for (const NumberField& f : number_fields) add(f.name, score.*f.field);
}

void take_scores(Intervals& intervals, const PlanScore& nominal, std::vector<PlanScore>& draws) {
  draws.assign(static_cast<std::size_t>(intervals.runs), nominal);
  std::size_t kept = 0;
  for (std::size_t m = 0; m < intervals.metrics.size(); ++m) {
    const std::string& name = intervals.metrics[m].name;
    if (!name.starts_with(score_prefix)) {
      if (kept != m) intervals.metrics[kept] = intervals.metrics[m];
      ++kept;
      continue;
    }
    const std::string field = name.substr(std::string(score_prefix).size());
    for (std::size_t k = 0; k < draws.size(); ++k) {
      const double value = intervals.samples[m][k];
      if (field == "meets") draws[k].meets = value != 0;
      for (const NumberField& f : number_fields) {
        if (field == f.name) draws[k].*f.field = value;
      }
    }
  }
  intervals.metrics.resize(kept);
  intervals.samples.clear();
}

}  // namespace

std::string score_text(const PlanScore& score) { return score_json(score).dump(); }

Result<PlanScore> parse_score(const std::string& text) {
  try {
    return score_from(Json::parse(text));
  } catch (const Json::exception&) { return damaged("score"); }
}

Result<PlanScore> PlanRunner::run(const Candidate& candidate, std::int64_t replicas, std::uint64_t requests) {
  const std::string key = candidate.key + "/" + std::to_string(replicas) + "/" + std::to_string(requests);
  if (const auto known = store_->find(key)) return parse_score(*known);
  if (stopped()) return make_error(ErrorKind::interrupted, "interrupted");
  const Scenario scenario = with_replicas(*candidate.scenario, replicas);
  RunOptions options;
  options.limit_requests = requests;
  options.keep_going = [&](std::uint64_t) { return !stopped(); };
  auto result = run_scenario(scenario, options);
  if (!result.ok()) {
    const ErrorKind kind = result.errors().front().kind;
    if (kind != ErrorKind::invalid_input && kind != ErrorKind::infeasible) return result.errors();
    PlanScore refused;
    refused.replicas = replicas;
    refused.refused = to_string(Errors{result.errors().front()});
    ORRERY_TRY_STATUS(store_->put(key, score_text(refused)));
    return refused;
  }
  const PlanScore score = score_of(*space_, scenario, *result);
  ++runs_;
  ORRERY_TRY_STATUS(store_->put(key, score_text(score)));
  return score;
}

std::int64_t PlanRunner::most_replicas(const Candidate& candidate) const {
  std::int64_t most = space_->most_replicas;
  const PoolSpec& pool = candidate.scenario->pool;
  const std::int64_t each = pool.gpus() / pool.replicas;
  for (const auto& [part, have] : space_->owned) {
    if (part == pool.instance.hardware.name) most = std::min(most, have / each);
  }
  return most;
}

Result<PlanScore> PlanRunner::fewest(const Candidate& candidate, std::int64_t guess, std::uint64_t requests) {
  if (space_->most_replicas == 0) return run(candidate, candidate.scenario->pool.replicas, requests);
  const std::int64_t most = most_replicas(candidate);
  std::int64_t low = 0;  // misses the SLO, or nobody there
  std::int64_t high = std::clamp<std::int64_t>(guess, 1, most);
  PlanScore score;
  for (;;) {
    ORRERY_TRY(tried, run(candidate, high, requests));
    score = tried;
    if (!score.refused.empty() || score.meets || high == most) break;
    low = high;
    high = std::min(most, high * 2);
  }
  if (!score.meets) return score;
  while (high - low > 1) {
    const std::int64_t middle = (low + high) / 2;
    ORRERY_TRY(tried, run(candidate, middle, requests));
    if (tried.meets) {
      high = middle;
      score = tried;
    } else {
      low = middle;
    }
  }
  return score;
}

Status PlanRunner::estimate(const Candidate& candidate, Finalist& finalist) {
  const std::int64_t replicas = finalist.entry.score.replicas;
  const std::string key =
      candidate.key + "/" + std::to_string(replicas) + "/draws " + std::to_string(space_->draws);
  if (const auto known = store_->find(key))
    return read_finalist(*known, static_cast<std::size_t>(space_->draws), finalist);
  if (stopped()) return make_error(ErrorKind::interrupted, "interrupted");
  const Scenario scenario = with_replicas(*candidate.scenario, replicas);
  RungShares shares;  // of the nominal run
  const auto measure = [&](const RunOptions& options) -> Result<RunMetrics> {
    ORRERY_TRY(result, run_scenario(scenario, options));
    // Scores first: a run without an answer has fewer of the others.
    RunMetrics metrics{{}, result.completed + result.failed + result.rejected};
    append_score(score_of(*space_, scenario, result), metrics.metrics);
    for (MetricInterval& m : metrics_of(result)) metrics.metrics.push_back(std::move(m));
    if (shares.empty()) shares = result.price_sources;
    ++runs_;
    return metrics;
  };
  EnsembleOptions options;
  options.runs = static_cast<int>(space_->draws);
  options.limit_requests = 0;
  options.keep_going = [&](std::uint64_t) { return !stopped(); };
  ORRERY_TRY(intervals, estimate_intervals(scenario, options, measure));
  finalist.intervals = std::move(intervals);
  take_scores(finalist.intervals, finalist.entry.score, finalist.draws);
  ORRERY_TRY(corrections, shipped_interval_corrections());
  correct_intervals(finalist.intervals, corrections, evidence_of(scenario, shares));
  return store_->put(key, finalist_text(finalist));
}

}  // namespace orrery
