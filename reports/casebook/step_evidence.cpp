#include "reports/casebook/step_evidence.h"

#include <algorithm>
#include <cmath>
#include <deque>
#include <map>
#include <numeric>

#include "base/text.h"

namespace orrery {

namespace {

// ------------------------------------------------------------------ which load it was

// By request of the log: the client's; empty where they are not the same requests.
std::vector<std::size_t> match(const MeasuredExperiment& load, const std::vector<SeenRequest>& seen) {
  if (load.requests.size() != seen.size()) return {};
  std::map<std::pair<std::int64_t, std::int64_t>, std::deque<std::size_t>> open;
  for (std::size_t i = 0; i < seen.size(); ++i)
    open[{seen[i].prompt_tokens, seen[i].output_tokens}].push_back(i);
  std::vector<std::size_t> order(load.requests.size()), out(load.requests.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return load.requests[a].submit_ns < load.requests[b].submit_ns;
  });
  for (const std::size_t i : order) {
    const MeasuredRequest& r = load.requests[i];
    const auto found = open.find({r.prompt_tokens, r.output_tokens});
    if (found == open.end() || found->second.empty()) return {};
    out[i] = found->second.front();
    found->second.pop_front();
  }
  return out;
}

Result<std::size_t> find_load(const MeasuredRun& run, const std::string& name,
                              const std::vector<SeenRequest>& seen, std::vector<std::size_t>& matched) {
  std::vector<std::string> names;
  for (std::size_t e = 0; e < run.experiments.size(); ++e) {
    names.push_back(run.experiments[e].name);
    if (!name.empty() && names.back() != name) continue;
    matched = match(run.experiments[e], seen);
    if (!matched.empty()) return e;
  }
  return invalid_input((name.empty() ? "has no load of the " : "has no load \"" + name + "\" of the ") +
                           std::to_string(seen.size()) +
                           " requests that were measured, with their lengths; it has " + join(names, ", "),
                       {run.folder + "/requests.csv", 0, 0}, "--steps");
}

// ------------------------------------------------------------------ kinds of steps

constexpr std::int64_t decode_bounds[] = {1, 4, 8, 16, 32, 64, 256};
constexpr std::int64_t token_bounds[] = {512, 1024, 2048, 4096, 8192};

template <std::size_t n>
std::size_t bucket(const std::int64_t (&bounds)[n], std::int64_t value) {
  std::size_t i = 0;
  while (i < n && value > bounds[i]) ++i;
  return i;
}

std::string name_of(bool prompts, std::size_t i) {
  if (prompts) {
    if (i == std::size(token_bounds)) return "with prompts, above " + human_count(8192) + " tokens";
    return "with prompts, to " + human_count(static_cast<double>(token_bounds[i])) + " tokens";
  }
  if (i == 0) return "decodes 1";
  if (i == std::size(decode_bounds)) return "decodes above 256";
  return "decodes " + std::to_string(decode_bounds[i - 1] + 1) + " to " + std::to_string(decode_bounds[i]);
}

struct Gathered {
  std::vector<double> device, host;
  double logged_ms = 0, priced = 0;
  double classes[op_class_count] = {};
};

double host_of(const MeasuredStep& s) {
  return static_cast<double>(s.times.sample_end_ns - s.schedule_start_ns - s.times.logging_ns +
                             s.times.update_ns);
}

using Kinds = std::map<std::pair<bool, std::size_t>, Gathered>;

Kinds gather(const MeasuredExperiment& load, const StepPricer& pricer) {
  Kinds kinds;
  std::vector<PrefillChunk> chunks;
  StepShape shape;
  for (const MeasuredStep& s : load.steps) {
    if (!s.times.known || s.times.gpu_ns <= 0 || !shape_of(s, chunks, shape)) continue;
    const StepBreakdown priced = pricer.explain(shape);
    const bool prompts = !chunks.empty();
    Gathered& g =
        kinds[{prompts, prompts ? bucket(token_bounds, s.tokens) : bucket(decode_bounds, s.decodes)}];
    g.logged_ms += static_cast<double>(s.times.gpu_ns) * 1e-6;
    g.device.push_back(static_cast<double>(priced.device_ns) / static_cast<double>(s.times.gpu_ns) - 1);
    g.host.push_back(static_cast<double>(priced.host_ns) / host_of(s) - 1);
    for (const OpLine& line : priced.ops) {
      if (line.time_ns <= 0) continue;  // what overlaps is a line below zero
      g.classes[static_cast<std::size_t>(line.op_class)] += static_cast<double>(line.time_ns);
      g.priced += static_cast<double>(line.time_ns);
    }
  }
  return kinds;
}

std::vector<StepKind> kinds_of(const Kinds& gathered) {
  std::vector<StepKind> out;
  for (const auto& [key, g] : gathered) {
    StepKind kind;
    kind.name = name_of(key.first, key.second);
    kind.steps = static_cast<std::int64_t>(g.device.size());
    kind.device_ms = g.logged_ms;
    kind.device = median_of(g.device) * 100;
    kind.host = median_of(g.host) * 100;
    std::vector<double> absolute;
    for (const double d : g.device) absolute.push_back(std::abs(d) * 100);
    kind.device_p90 = quantile_of(absolute, 0.9);
    for (std::size_t i = 0; i < op_class_count; ++i) {
      if (g.classes[i] > 0)
        kind.ops.emplace_back(to_string(static_cast<OpClass>(i)), g.classes[i] / g.priced * 100);
    }
    out.push_back(std::move(kind));
  }
  return out;
}

std::vector<ClassResidual> classes_of(const Kinds& gathered, const StepFit& fit) {
  double sum = 0, by_class[op_class_count] = {};
  for (const auto& [key, g] : gathered) {
    for (std::size_t i = 0; i < op_class_count; ++i) by_class[i] += g.classes[i];
    sum += g.priced;
  }
  std::vector<ClassResidual> out;
  for (std::size_t i = 0; i < op_class_count; ++i) {
    if (by_class[i] > 0) out.push_back({fit.operators[i], by_class[i] / sum * 100});
  }
  return out;
}

// ------------------------------------------------------------------ attribution

std::vector<Attribution> attribute(const ExperimentSplit& split, const std::vector<SeenRequest>& seen,
                                   const std::vector<std::size_t>& matched) {
  std::vector<Attribution> out;
  for (const MetricSplit& m : split.metrics) {
    const bool tpot = m.metric == "tpot_ms";
    Attribution a;
    a.metric = m.metric;
    for (const std::size_t i : split.counted) {
      const SeenRequest& s = seen[matched[i]];
      if (s.predicted_ttft_ms < 0 || (tpot && s.output_tokens < 2)) continue;
      a.predicted +=
          tpot ? (s.predicted_e2e_ms - s.predicted_ttft_ms) / static_cast<double>(s.output_tokens - 1)
               : s.predicted_ttft_ms;
      ++a.requests;
    }
    if (a.requests == 0) continue;
    a.predicted /= static_cast<double>(a.requests);
    a.measured = m.measured;
    a.step_time = m.step_time;
    a.host = m.host;
    a.queueing = m.queueing;
    // What the API server is predicted to add, less what it and the wire did (m.client is minus that).
    a.front_end = m.client + a.predicted - m.predicted;
    out.push_back(a);
  }
  return out;
}

}  // namespace

Result<StepEvidence> step_evidence(const Scenario& scenario, MeasuredRun run, const std::string& experiment,
                                   const std::vector<SeenRequest>& seen, std::int64_t concurrency) {
  std::vector<std::size_t> matched;
  ORRERY_TRY(at, find_load(run, experiment, seen, matched));
  const ScheduleReplay replay = replay_schedule(run);
  MeasuredExperiment& load = run.experiments[at];
  load.concurrency = concurrency;
  for (std::size_t i = 0; i < load.requests.size(); ++i) {
    load.requests[i].ttft_ns = std::llround(seen[matched[i]].ttft_ms * 1e6);
    load.requests[i].e2e_ns = std::llround(seen[matched[i]].e2e_ms * 1e6);
  }
  StepEvidence out;
  out.run = run.folder;
  out.experiment = load.name;
  out.steps = replay.experiments[at].steps;
  out.identical = replay.experiments[at].identical;
  const InstanceSpec& spec = scenario.pool.instance;
  ORRERY_TRY(pricer, StepPricer::create(spec));
  const std::vector<Stall> stalls = find_stalls(run);
  const LoggedStepTimes times(run, pricer, stalls, replay_step_times(run, pricer));
  ORRERY_TRY(split, split_errors(scenario, pricer, times, load, replay.experiments[at], stalls));
  out.left_out = split.left_out;
  out.attribution = attribute(split, seen, matched);
  std::vector<std::string> others;
  for (const MeasuredExperiment& e : run.experiments) {
    if (e.name != load.name) others.push_back(e.name);
  }
  ORRERY_TRY(fit, fit_steps(run, spec, others));
  const Kinds gathered = gather(load, pricer);
  out.kinds = kinds_of(gathered);
  out.classes = classes_of(gathered, fit);
  return out;
}

Json step_evidence_json(const StepEvidence& e) {
  Json attribution = Json::object(), kinds = Json::array(), classes = Json::array();
  for (const Attribution& a : e.attribution)
    attribution[a.metric] = {{"requests", a.requests},   {"predicted", a.predicted},
                             {"measured", a.measured},   {"error", a.predicted - a.measured},
                             {"step_time", a.step_time}, {"host", a.host},
                             {"queueing", a.queueing},   {"transfer", a.transfer},
                             {"front_end", a.front_end}};
  for (const StepKind& k : e.kinds) {
    Json ops = Json::object();
    for (const auto& [name, share] : k.ops) ops[name] = share;
    kinds.push_back({{"kind", k.name},
                     {"steps", k.steps},
                     {"device_ms", k.device_ms},
                     {"device_error_percent", k.device},
                     {"device_abs_error_p90_percent", k.device_p90},
                     {"host_error_percent", k.host},
                     {"operator_share_percent", ops}});
  }
  for (const ClassResidual& c : e.classes)
    classes.push_back({{"class", c.factor.key},
                       {"share_percent", c.share},
                       {"measured_over_priced", c.factor.value},
                       {"deviation", c.factor.deviation},
                       {"told_apart", c.factor.fitted},
                       {"note", c.factor.note}});
  return {{"run", e.run},
          {"experiment", e.experiment},
          {"schedule", {{"steps", e.steps}, {"identical", e.identical}}},
          {"left_out_requests", e.left_out},
          {"attribution", attribution},
          {"step_kinds", kinds},
          {"operators", classes}};
}

std::string step_evidence_text(const StepEvidence& e) {
  const auto number = [](double v) { return (v > 0 ? "+" : "") + format_fixed(v, 2); };
  std::string out = "\nschedule    " + std::to_string(e.identical) + " of " + std::to_string(e.steps) +
                    " steps of " + e.experiment + " composed as the engine composed them\n\n";
  TextTable parts(
      {"mean, ms", "predicted", "measured", "step time", "host", "queueing", "transfer", "front end"});
  for (const Attribution& a : e.attribution)
    parts.add({a.metric, format_fixed(a.predicted, 2), format_fixed(a.measured, 2), number(a.step_time),
               number(a.host), number(a.queueing), number(a.transfer), number(a.front_end)});
  TextTable kinds({"steps", "n", "device ms", "device", "host"});
  for (const StepKind& k : e.kinds)
    kinds.add({k.name, std::to_string(k.steps), format_fixed(k.device_ms, 0), number(k.device) + " %",
               number(k.host) + " %"});
  TextTable classes({"operator class", "share", "measured / priced", "+-"});
  for (const ClassResidual& c : e.classes)
    classes.add({c.factor.key, format_fixed(c.share, 1) + " %",
                 c.factor.fitted ? format_fixed(c.factor.value, 3) : "-",
                 c.factor.fitted ? format_fixed(c.factor.deviation, 3) : c.factor.note});
  return out + parts.to_string() + "\n" + kinds.to_string() + "\n" + classes.to_string();
}

}  // namespace orrery
