#include "plan/rounds.h"

#include <algorithm>
#include <array>
#include <optional>

#include "base/json.h"
#include "plan/axes.h"
#include "plan/rate_search.h"
#include "plan/workload_mix.h"
#include "sim/costed/run.h"
#include "sim/ensemble/capacity.h"

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
    NumberField{"rate_factor", &PlanScore::rate_factor},
    NumberField{"met_per_s", &PlanScore::met_per_s},
    NumberField{"joules_per_token", &PlanScore::joules_per_token},
    NumberField{"watts_per_gpu", &PlanScore::watts_per_gpu},
};

constexpr std::array block_fields = {
    &RequestBlock::requests, &RequestBlock::met,        &RequestBlock::answered, &RequestBlock::tokens,
    &RequestBlock::e2e_ms,   &RequestBlock::met_tokens, &RequestBlock::busy_s};

Json blocks_json(const RequestBlocks& blocks) {
  Json out = Json::array();
  for (const RequestBlock& block : blocks) {
    Json row = Json::array();
    for (const auto field : block_fields) row.push_back(block.*field);
    out.push_back(std::move(row));
  }
  return out;
}

RequestBlocks blocks_from(const Json& in) {
  RequestBlocks blocks;
  for (const Json& row : in) {
    RequestBlock& block = blocks.emplace_back();
    for (std::size_t i = 0; i < block_fields.size(); ++i) block.*block_fields[i] = row.at(i).get<double>();
  }
  return blocks;
}

Json score_json(const PlanScore& score) {
  Json out;
  out["replicas"] = score.replicas;
  out["gpus"] = score.gpus;
  out["has_slo"] = score.has_slo;
  out["meets"] = score.meets;
  out["saturated"] = score.saturated;
  if (score.cut) out["cut"] = true;
  if (!score.blocks.empty()) out["blocks"] = blocks_json(score.blocks);
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
  score.cut = in.contains("cut");
  if (in.contains("blocks")) score.blocks = blocks_from(in.at("blocks"));
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

std::string finalist_text(const std::vector<PlanScore>& draws, const Intervals& intervals) {
  Json out;
  out["draws"] = Json::array();
  for (const PlanScore& score : draws) out["draws"].push_back(score_json(score));
  out["intervals"] = Json::array();
  for (const MetricInterval& m : intervals.metrics) out["intervals"].push_back(interval_json(m));
  return out.dump();
}

Status read_finalist(const std::string& text, std::size_t count, std::vector<PlanScore>& draws,
                     Intervals& intervals) {
  try {
    const Json in = Json::parse(text);
    for (const Json& score : in.at("draws")) draws.push_back(score_from(score));
    if (draws.size() != count) return damaged("finalist");
    for (const Json& m : in.at("intervals")) {
      intervals.metrics.push_back({.name = m.at("name"),
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

std::uint64_t measured_requests(const std::vector<TraceRequest>& requests, const WorkloadSpec& workload,
                                std::uint64_t part, double rate_factor) {
  if (workload.warmup_s <= 0) return part;
  if (workload.closed_loop_concurrency > 0) return 0;
  const SimTime from = requests.front().arrival + duration_from_seconds(workload.warmup_s * rate_factor);
  return static_cast<std::uint64_t>(std::count_if(requests.begin(),
                                                  requests.begin() + static_cast<std::ptrdiff_t>(part),
                                                  [&](const TraceRequest& r) { return r.arrival >= from; }));
}

namespace {

PlanScore cut_short(const Scenario& scenario, const BlockSink& sink) {
  PlanScore score;
  score.replicas = scenario.pool.replicas;
  score.gpus = scenario.gpus();
  score.has_slo = true;
  score.attainment = sink.most_attainment();
  score.blocks = sink.blocks();
  score.cut = true;
  return score;
}

// What it draws is asked where the objective wants to know.
std::pair<Result<RunResult>, PlanScore> run_and_score(const PlanSpace& space, const Scenario& scenario,
                                                      RunOptions options) {
  std::optional<EnergyMeter> meter;
  if (space.objective == PlanObjective::energy) {
    auto made = EnergyMeter::create(scenario);
    if (!made.ok()) return {made.errors(), {}};
    meter.emplace(std::move(made).value());
    options.energy = &*meter;
  }
  auto result = run_scenario(scenario, options);
  PlanScore score;
  if (result.ok() && meter) {
    const EnergyResult energy = meter->result(*result);
    score = score_of(space, scenario, *result, &energy);
  } else if (result.ok()) {
    score = score_of(space, scenario, *result);
  }
  return {std::move(result), std::move(score)};
}

std::string key_of(const Candidate& candidate, std::size_t workload, const PlanRunner::Question& question) {
  std::string key = candidate.key_under(workload) + "/" + std::to_string(question.replicas) + "/" +
                    std::to_string(question.requests);
  if (question.load != nullptr) key += "/" + question.load->name;
  if (question.rate_factor != 1) key += "/rate " + format_number(question.rate_factor);
  return key;
}

}  // namespace

Result<PlanScore> PlanRunner::run(const Candidate& candidate, const Question& question) {
  const std::size_t count = space_->workload_count();
  if (count == 1) return run_under(candidate, 0, question);
  WorkloadRequests all;
  for (std::size_t w = 0; w < count; ++w) all.push_back(candidate.under(w).workload.requests);
  std::vector<PlanScore> each;
  for (std::size_t w = 0; w < count; ++w) {
    Question own = question;
    own.requests = share_of(all, w, question.requests);
    ORRERY_TRY(score, run_under(candidate, w, own));
    each.push_back(std::move(score));
    if (!each.back().refused.empty()) return std::move(each.back());
  }
  return combined(*space_, std::move(each));
}

Result<PlanScore> PlanRunner::run_under(const Candidate& candidate, std::size_t workload_number,
                                        const Question& question) {
  const std::string key = key_of(candidate, workload_number, question);
  if (const auto known = store_->find(key)) return parse_score(*known);
  if (question.may_stop) {
    if (const auto known = store_->find(key + "/cut")) return parse_score(*known);
  }
  if (stopped()) return make_error(ErrorKind::interrupted, "interrupted");
  const PriceTableScope scope(*tables_, graph_name(candidate));
  Scenario scenario = with_replicas(candidate.under(workload_number), question.replicas);
  if (question.load != nullptr) scenario.workload.requests = question.load->under(workload_number);
  const WorkloadSpec& workload = scenario.workload;
  const bool stops = question.may_stop && scenario.slo.given;
  BlockSink sink(scenario.slo.limits(), duration_from_seconds(workload.warmup_s),
                 measured_requests(*workload.requests, workload, question.requests, question.rate_factor),
                 stops ? scenario.slo.percentile / 100 : 0);
  RunOptions options;
  options.limit_requests = question.requests;
  options.rate_factor = question.rate_factor;
  options.sink = &sink;
  options.keep_going = [&](std::uint64_t) { return !sink.hopeless() && !stopped(); };
  auto [result, score] = run_and_score(*space_, scenario, options);
  if (!result.ok() && sink.hopeless()) {
    const PlanScore cut = cut_short(scenario, sink);
    ++runs_;
    requests_ += question.requests;
    ORRERY_TRY_STATUS(store_->put(key + "/cut", score_text(cut)));
    return cut;
  }
  if (!result.ok()) {
    const ErrorKind kind = result.errors().front().kind;
    if (kind != ErrorKind::invalid_input && kind != ErrorKind::infeasible) return result.errors();
    PlanScore refused;
    refused.replicas = question.replicas;
    refused.refused = to_string(Errors{result.errors().front()});
    ORRERY_TRY_STATUS(store_->put(key, score_text(refused)));
    return refused;
  }
  score.blocks = sink.blocks();
  score.rate_factor = question.rate_factor;
  ++runs_;
  requests_ += question.requests;
  ORRERY_TRY_STATUS(store_->put(key, score_text(score)));
  return score;
}

std::int64_t PlanRunner::most_replicas(const Candidate& candidate) const {
  std::int64_t most = space_->most_replicas > 0 ? space_->most_replicas : INT64_MAX;
  const PoolSpec& pool = candidate.scenario->pool;
  const std::int64_t each = pool.gpus() / pool.replicas;
  for (const auto& [part, have] : space_->owned) {
    if (part == pool.instance.hardware.name) most = std::min(most, have / each);
  }
  return most;
}

Result<PlanScore> PlanRunner::fewest(const Candidate& candidate, const Range& range, Question question) {
  const std::int64_t allowed = most_replicas(candidate);
  const std::int64_t most = std::clamp<std::int64_t>(range.most, 1, allowed);
  std::int64_t low = std::min(range.least, most) - 1;  // misses the SLO, or nobody there
  std::int64_t high = most + 1;                        // meets it, once known
  PlanScore meets, misses;
  // True where it meets it. At the most that are allowed it is run to its end, for that is then the answer.
  const auto probe = [&](std::int64_t replicas) -> Result<bool> {
    question.replicas = replicas;
    question.may_stop = replicas < allowed;
    ORRERY_TRY(score, run(candidate, question));
    const bool good = score.meets || !score.refused.empty();
    (good ? high : low) = replicas;
    (good ? meets : misses) = std::move(score);
    return good;
  };
  std::int64_t step = 1, next = std::clamp<std::int64_t>(question.replicas, low + 1, most);
  ORRERY_TRY(first, probe(next));
  if (!meets.refused.empty()) return meets;
  for (bool good = first; good == first && (first ? high - low > 1 : low < most); step *= 2) {
    next = first ? std::max(low + 1, high - step) : std::min(most, low + step);
    ORRERY_TRY(again, probe(next));
    good = again;
  }
  if (high > most) return misses;
  while (high - low > 1) {
    const auto middle = probe((low + high) / 2);
    if (!middle.ok()) return middle.errors();
  }
  if (misses.replicas == high - 1 && meets.refused.empty()) {
    meets.fewer = misses.blocks;
    for (std::size_t w = 0; w < misses.each.size(); ++w) meets.each[w].fewer = misses.each[w].blocks;
  }
  return meets;
}

Result<PlanScore> PlanRunner::highest_rate(const Candidate& candidate, double guess, std::uint64_t requests) {
  const std::int64_t replicas = candidate.scenario->pool.replicas;
  PlanScore best, first;
  bool any = false;
  const auto probe = [&](double factor) -> Result<bool> {
    ORRERY_TRY(
        score,
        run(candidate, {.replicas = replicas, .requests = requests, .rate_factor = factor, .may_stop = any}));
    if (!any) first = score;
    any = true;
    if (score.meets && (best.replicas == 0 || factor > best.rate_factor)) best = score;
    return score.meets;
  };
  best.replicas = 0;
  ORRERY_TRY(found, bracket_rate(guess, probe));
  if (!found.found || best.replicas == 0) return first;
  const auto rate_under = [&](std::size_t w, std::uint64_t of_them) {
    return -best.rate_factor * offered_rate(candidate.under(w), of_them) / static_cast<double>(best.gpus);
  };
  if (best.each.empty()) {
    best.objective = rate_under(0, requests);
    return best;
  }
  WorkloadRequests all;
  for (std::size_t w = 0; w < best.each.size(); ++w) all.push_back(candidate.under(w).workload.requests);
  for (std::size_t w = 0; w < best.each.size(); ++w)
    best.each[w].objective = rate_under(w, share_of(all, w, requests));
  return combined(*space_, std::move(best.each));
}

Result<PlanScore> PlanRunner::best(const Candidate& candidate, const PlanScore& guess, const Range& range,
                                   std::uint64_t requests) {
  if (space_->objective == PlanObjective::rate)
    return highest_rate(candidate, guess.meets ? guess.rate_factor : 1, requests);
  if (space_->most_replicas > 0)
    return fewest(candidate, range, {.replicas = guess.replicas, .requests = requests});
  return run(candidate, {.replicas = candidate.scenario->pool.replicas, .requests = requests});
}

Status PlanRunner::estimate(const Candidate& candidate, Finalist& finalist) {
  const PlanScore& nominal = finalist.entry.score;
  const std::size_t count = space_->workload_count();
  if (count == 1) return estimate_under(candidate, 0, nominal, finalist.draws, finalist.intervals);
  std::vector<std::vector<PlanScore>> draws(count);
  finalist.further_intervals.resize(count - 1);
  for (std::size_t w = 0; w < count; ++w) {
    Intervals& intervals = w == 0 ? finalist.intervals : finalist.further_intervals[w - 1];
    ORRERY_TRY_STATUS(estimate_under(candidate, w, nominal.each[w], draws[w], intervals));
  }
  for (std::size_t k = 0; k < draws.front().size(); ++k) {
    std::vector<PlanScore> each;
    for (std::size_t w = 0; w < count; ++w) each.push_back(draws[w][k]);
    finalist.draws.push_back(combined(*space_, std::move(each)));
  }
  return ok_status();
}

Status PlanRunner::estimate_under(const Candidate& candidate, std::size_t workload, const PlanScore& nominal,
                                  std::vector<PlanScore>& draws, Intervals& intervals) {
  const double factor = nominal.rate_factor;
  const std::string key = key_of(candidate, workload, {.replicas = nominal.replicas, .rate_factor = factor}) +
                          "/draws " + std::to_string(space_->draws);
  if (const auto known = store_->find(key))
    return read_finalist(*known, static_cast<std::size_t>(space_->draws), draws, intervals);
  if (stopped()) return make_error(ErrorKind::interrupted, "interrupted");
  const PriceTableScope scope(*tables_, graph_name(candidate));
  const Scenario scenario = with_replicas(candidate.under(workload), nominal.replicas);
  RungShares shares;  // of the nominal run
  const auto measure = [&](RunOptions options) -> Result<RunMetrics> {
    options.rate_factor = factor;
    auto [run, score] = run_and_score(*space_, scenario, options);
    ORRERY_TRY(result, std::move(run));
    // Scores first: a run without an answer has fewer of the others.
    RunMetrics metrics{{}, result.completed + result.failed + result.rejected};
    append_score(score, metrics.metrics);
    for (MetricInterval& m : metrics_of(result)) metrics.metrics.push_back(std::move(m));
    if (shares.empty()) shares = result.price_sources;
    ++runs_;
    requests_ += scenario.workload.requests->size();
    return metrics;
  };
  EnsembleOptions options;
  options.runs = static_cast<int>(space_->draws);
  options.limit_requests = 0;
  options.keep_going = [&](std::uint64_t) { return !stopped(); };
  ORRERY_TRY(estimated, estimate_intervals(scenario, options, measure));
  intervals = std::move(estimated);
  take_scores(intervals, nominal, draws);
  // Of many runs: what a draw says is whether that rate is still met.
  if (space_->objective == PlanObjective::rate) {
    for (PlanScore& draw : draws) draw.objective = nominal.objective;
  }
  ORRERY_TRY(corrections, shipped_interval_corrections());
  correct_intervals(intervals, corrections, evidence_of(scenario, shares));
  add_capacity(scenario, corrections.capacity, intervals);
  return store_->put(key, finalist_text(draws, intervals));
}

}  // namespace orrery
