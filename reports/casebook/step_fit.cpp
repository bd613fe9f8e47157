#include "reports/casebook/step_fit.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <map>

#include "base/json.h"
#include "base/text.h"
#include "reports/casebook/robust_fit.h"

namespace orrery {

namespace {

using Parts = std::array<double, op_class_count>;
enum class Mode : std::uint8_t { full, piecewise, none };

// A logged step beside its price; microseconds.
struct Sample {
  std::size_t experiment = 0;
  double schedule = 0, handover = 0, launch = 0, update = 0, device = 0;  // logged
  double running = 0, admitted = 0, sequences = 0;
  Mode mode = Mode::full;
  double excess = 0;  // launch beyond `launch_graph`, by the profile
  double busy = 0;    // device, by the profile
  Parts parts{};      // of it, by operator class
  bool prompts = false, decodes = false;
  // The device was done with the step before, or nearly, when launching began. Otherwise the queue of
  // launches fills and the host waits in it: beside a device 300 ms behind, launching takes 80 ms instead
  // of 18.
  bool clear = false;
  bool unblocked() const {  // the host ran at its own pace
    return clear && (busy < 0.7 * launch || launch < 0.6 * device);
  }
  bool on_time() const { return launch < 0.8 * device; }  // the device did
};

struct Coefficients {
  double schedule_base = 0, schedule_per_sequence = 0, schedule_per_new_request = 0;
  double handover = 0;
  double launch_graph = 0, per_sequence = 0;
  double eager = 1, piecewise = 1;  // factors on the excess
  double update_base = 0, update_per_sequence = 0;
  Parts operators{};
  double condition = 0;
  std::map<std::string, std::string> kept;  // term → why it is the profile's
};

constexpr std::size_t least_steps = 8;
constexpr const char* operator_group = "operators";

double us(const Figure<Seconds>& figure) { return figure.value.value() * 1e6; }

bool one_process(const InstanceSpec& spec) {
  return spec.engine.single_process_per_gpu ||
         (spec.engine.single_process_at_one_gpu && spec.plan.gpus() * spec.engines == 1);
}

const char* per_sequence_key(const InstanceSpec& spec) {
  return spec.engine.runner == "v1" ? "prepare_per_sequence_v1" : "prepare_per_sequence";
}

Coefficients of_profile(const InstanceSpec& spec) {
  const HostCosts& h = spec.engine.host;
  Coefficients c;
  c.schedule_base = us(h.schedule_base);
  c.schedule_per_sequence = us(h.schedule_per_sequence);
  c.schedule_per_new_request = us(h.schedule_per_new_request);
  c.handover = us(h.prepare_base) + (one_process(spec) ? 0 : us(h.prepare_rpc));
  c.launch_graph = us(h.launch_graph);
  c.per_sequence = us(spec.engine.runner == "v1" ? h.prepare_per_sequence_v1 : h.prepare_per_sequence);
  c.update_base = us(h.update_base);
  c.update_per_sequence = us(h.update_per_sequence);
  c.operators.fill(1);
  return c;
}

Sample sample_of(const MeasuredStep& s, std::size_t experiment, const StepPricer& pricer,
                 double launch_graph) {
  std::vector<PrefillChunk> chunks;
  for (const MeasuredStep::Chunk& c : s.chunks)
    chunks.push_back({static_cast<std::int32_t>(c.tokens), c.context});
  StepShape shape{.prefill = {},
                  .decode_sequences = static_cast<std::int32_t>(s.decodes),
                  .decode_context_tokens = s.decode_context,
                  .new_requests = static_cast<std::int32_t>(s.admitted.size()),
                  .running = static_cast<std::int32_t>(s.running)};
  shape.prefill = chunks;
  const StepBreakdown priced = pricer.explain(shape);
  Sample out;
  out.experiment = experiment;
  out.schedule = static_cast<double>(s.times.schedule_ns) / 1e3;
  out.handover = static_cast<double>(s.times.execute_start_ns - s.schedule_start_ns - s.times.schedule_ns -
                                     s.times.logging_ns) /
                 1e3;
  out.launch = static_cast<double>(s.times.sample_end_ns - s.times.execute_start_ns) / 1e3;
  out.update = static_cast<double>(s.times.update_ns) / 1e3;
  out.device = static_cast<double>(s.times.gpu_rank0_ns) / 1e3;
  out.running = static_cast<double>(s.running);
  out.admitted = static_cast<double>(s.admitted.size());
  out.sequences = static_cast<double>(s.sequences);
  out.mode = priced.graph_mode == "full"        ? Mode::full
             : priced.graph_mode == "piecewise" ? Mode::piecewise
                                                : Mode::none;
  out.excess = static_cast<double>(priced.timing.launch) / 1e3 - launch_graph;
  out.busy = static_cast<double>(priced.timing.busy) / 1e3;
  for (const OpLine& line : priced.ops)
    out.parts[static_cast<std::size_t>(line.op_class)] += static_cast<double>(line.time_ns) / 1e3;
  out.prompts = !chunks.empty();
  out.decodes = s.decodes > 0;
  return out;
}

Result<std::vector<Sample>> samples_of(const MeasuredRun& run, const InstanceSpec& spec,
                                       const std::vector<std::string>& leave_out) {
  ORRERY_TRY(pricer, StepPricer::create(spec));
  std::vector<Sample> samples;
  bool logged = false;
  for (std::size_t e = 0; e < run.experiments.size(); ++e) {
    const MeasuredExperiment& experiment = run.experiments[e];
    if (std::find(leave_out.begin(), leave_out.end(), experiment.name) != leave_out.end()) continue;
    // When the device was done with the step before: it begins when that is, or when launching begins, and is
    // timed from there.
    std::int64_t step = -1, device_end = 0;
    for (const MeasuredStep& s : experiment.steps) {
      logged = logged || s.times.known;
      if (!s.times.known || s.times.gpu_rank0_ns <= 0) {
        step = -1;
        continue;
      }
      const bool follows = s.step == step + 1;
      const bool clear = follows && device_end <= s.times.execute_start_ns +
                                                      (s.times.sample_end_ns - s.times.execute_start_ns) / 2;
      device_end = std::max(follows ? device_end : 0, s.times.execute_start_ns) + s.times.gpu_rank0_ns;
      step = s.step;
      if (s.decodes < 0 || (s.chunks.empty() && s.decodes == 0)) continue;
      samples.push_back(sample_of(s, e, pricer, us(spec.engine.host.launch_graph)));
      samples.back().clear = clear || experiment.serial;
    }
  }
  if (!logged)
    return invalid_input(
        "has no host and device times of steps: expected the columns execute_start_us, "
        "execute_host_us, sample_end_us and gpu_us (tools/vllm_step_log.py writes them)",
        {run.folder + "/steps.csv", 0, 0});
  if (samples.size() < least_steps)
    return invalid_input("has fewer than " + std::to_string(least_steps) + " steps that can be used",
                         {run.folder + "/steps.csv", 0, 0});
  return samples;
}

using Choose = std::function<bool(const Sample&)>;
using Row = std::function<std::vector<double>(const Sample&)>;
using Value = std::function<double(const Sample&)>;

// Robust fit over the chosen samples; nothing where they are too few or all alike in a column but the first.
std::vector<double> fit_terms(const std::vector<Sample>& samples, const Choose& choose, const Row& row,
                              const Value& value, std::size_t unknowns) {
  std::vector<std::vector<double>> rows;
  std::vector<double> y;
  for (const Sample& s : samples) {
    if (!choose(s)) continue;
    rows.push_back(row(s));
    y.push_back(value(s));
  }
  if (rows.size() < least_steps) return {};
  for (std::size_t j = 1; j < unknowns; ++j) {
    double low = rows[0][j], high = low;
    for (const auto& r : rows) {
      low = std::min(low, r[j]);
      high = std::max(high, r[j]);
    }
    if (high - low < 1) return {};
  }
  return robust_fit(rows, y, std::vector<Prior>(unknowns)).value;
}

// A host that waits for the device after all only adds time, so the dense half counts. Steps beside decodes
// are what a busy engine runs, and launches of a prompt alone take a host that slept up to a third longer:
// they count only where the others are too few.
double launch_ratio(const std::vector<Sample>& samples, Mode mode, const Coefficients& c) {
  std::vector<double> ratios, beside;
  for (const Sample& s : samples) {
    if (s.mode != mode || !s.unblocked() || s.excess <= 0) continue;
    ratios.push_back((s.launch - c.launch_graph - c.per_sequence * s.sequences) / s.excess);
    if (s.decodes) beside.push_back(ratios.back());
  }
  if (beside.size() >= least_steps) return shorth_of(beside);
  return ratios.size() < least_steps ? 0 : shorth_of(ratios);
}

// One factor per class that the log can tell: the class that the data leave most uncertain is set to 1 and
// the others are fitted again, until all that are left stand.
void fit_operators(const std::vector<Sample>& samples, Coefficients& c) {
  constexpr double wide_enough = 0.2, alike = 10;  // rows of one experiment are alike: independent ones would
                                                   // be 1 in 100
  std::vector<const Sample*> rows;
  for (const Sample& s : samples) {
    if (s.on_time()) rows.push_back(&s);
  }
  if (rows.size() < least_steps) {
    c.kept[operator_group] = "too few steps whose launches did not hold the device up";
    return;
  }
  std::vector<std::size_t> free;
  for (std::size_t i = 0; i < op_class_count; ++i) {
    const bool used = std::any_of(rows.begin(), rows.end(), [&](const Sample* s) { return s->parts[i] > 0; });
    if (used)
      free.push_back(i);
    else
      c.kept[to_string(static_cast<OpClass>(i))] = "does not occur in the log";
  }
  while (!free.empty()) {
    std::vector<std::vector<double>> x;
    std::vector<double> y;
    for (const Sample* s : rows) {
      std::vector<double> row;
      double rest = 1;
      for (std::size_t i = 0; i < op_class_count; ++i) {
        const bool fitted = std::find(free.begin(), free.end(), i) != free.end();
        if (fitted)
          row.push_back(s->parts[i] / s->device);
        else
          rest -= s->parts[i] / s->device;
      }
      x.push_back(std::move(row));
      y.push_back(rest);
    }
    const RobustFit fit = robust_fit(x, y, std::vector<Prior>(free.size(), Prior{1, wide_enough, 0.05}));
    const auto widest = std::max_element(fit.deviation.begin(), fit.deviation.end());
    if (alike * *widest < wide_enough) {
      c.condition = fit.condition;
      for (std::size_t k = 0; k < free.size(); ++k) c.operators[free[k]] = fit.value[k];
      return;
    }
    const auto at = free.begin() + (widest - fit.deviation.begin());
    c.kept[to_string(static_cast<OpClass>(*at))] = "the log cannot tell it from the others";
    free.erase(at);
  }
}

Coefficients fit_samples(const std::vector<Sample>& samples, const InstanceSpec& spec) {
  Coefficients c = of_profile(spec);
  const char* few = "too few steps, or all alike";
  const auto any = [](const Sample&) { return true; };
  const auto graph = [](const Sample& s) { return s.mode == Mode::full && s.launch < 0.9 * s.device; };
  if (const auto b = fit_terms(
          samples, any,
          [](const Sample& s) {
            return std::vector<double>{1, s.running, s.admitted};
          },
          [](const Sample& s) { return s.schedule; }, 3);
      !b.empty()) {
    c.schedule_base = b[0];
    c.schedule_per_sequence = b[1];
    c.schedule_per_new_request = b[2];
  } else {
    for (const char* key : {"schedule_base", "schedule_per_sequence", "schedule_per_new_request"})
      c.kept[key] = few;
  }
  if (const auto b = fit_terms(
          samples, graph, [](const Sample&) { return std::vector<double>{1}; },
          [](const Sample& s) { return s.handover; }, 1);
      !b.empty())
    c.handover = b[0];
  else
    c.kept["prepare_base"] = c.kept["prepare_rpc"] = few;
  if (const auto b = fit_terms(
          samples, graph,
          [](const Sample& s) {
            return std::vector<double>{1, s.sequences};
          },
          [](const Sample& s) { return s.launch; }, 2);
      !b.empty()) {
    c.launch_graph = b[0];
    c.per_sequence = b[1];
  } else {
    c.kept["launch_graph"] = c.kept[per_sequence_key(spec)] = few;
  }
  if (const auto b = fit_terms(
          samples, any,
          [](const Sample& s) {
            return std::vector<double>{1, s.sequences};
          },
          [](const Sample& s) { return s.update; }, 2);
      !b.empty()) {
    c.update_base = b[0];
    c.update_per_sequence = b[1];
  } else {
    c.kept["update_base"] = c.kept["update_per_sequence"] = few;
  }
  const double eager = launch_ratio(samples, Mode::none, c),
               pieces = launch_ratio(samples, Mode::piecewise, c);
  c.eager = eager > 0 ? eager : 1;
  c.piecewise = pieces > 0 ? pieces : c.eager;
  if (!(eager > 0))
    for (const char* key : {"launch_kernel", "launch_experts", "launch_collective"})
      c.kept[key] = "too few steps launched kernel by kernel while the device did not hold the host up";
  if (!(pieces > 0)) c.kept["launch_piece"] = "too few piecewise steps; scaled with launch_kernel";
  fit_operators(samples, c);
  return c;
}

double launch_of(const Sample& s, const Coefficients& c) {
  const double factor = s.mode == Mode::full ? 0 : s.mode == Mode::piecewise ? c.piecewise : c.eager;
  return c.launch_graph + c.per_sequence * s.sequences + factor * s.excess;
}

double device_of(const Sample& s, const Coefficients& c) {
  double sum = 0;
  for (std::size_t i = 0; i < op_class_count; ++i) sum += c.operators[i] * s.parts[i];
  return sum;
}

struct Kind {
  const char* name;
  Choose choose;
  double (*predict)(const Sample&, const Coefficients&);
  double Sample::*logged;
};

std::vector<Kind> kinds() {
  return {{"launch, graph", [](const Sample& s) { return s.mode == Mode::full && s.launch < 0.9 * s.device; },
           launch_of, &Sample::launch},
          {"launch, piecewise", [](const Sample& s) { return s.mode == Mode::piecewise && s.unblocked(); },
           launch_of, &Sample::launch},
          {"launch, eager", [](const Sample& s) { return s.mode == Mode::none && s.unblocked(); }, launch_of,
           &Sample::launch},
          {"device, decode", [](const Sample& s) { return !s.prompts && s.on_time(); }, device_of,
           &Sample::device},
          {"device, prompts", [](const Sample& s) { return s.prompts && s.on_time(); }, device_of,
           &Sample::device}};
}

struct Term {
  const char* key;
  double before, value;
};

// launch_kernel's factor also changes what stands between the pieces; the pieces take the rest.
std::vector<Term> host_terms(const Coefficients& c, const InstanceSpec& spec) {
  const HostCosts& h = spec.engine.host;
  const Coefficients p = of_profile(spec);
  const double layers = static_cast<double>(spec.model.layers), kernel = us(h.launch_kernel);
  const double pieces = us(h.launch_piece) * (layers + 1) + 2 * layers * kernel;
  const double piece = std::max(0.0, (c.piecewise * pieces - 2 * layers * c.eager * kernel) / (layers + 1));
  const bool alone = one_process(spec);
  const double base = alone ? c.handover : us(h.prepare_base),
               rpc = alone ? us(h.prepare_rpc) : c.handover - base;
  std::vector<Term> terms{
      {"schedule_base", p.schedule_base, c.schedule_base},
      {"schedule_per_sequence", p.schedule_per_sequence, c.schedule_per_sequence},
      {"schedule_per_new_request", p.schedule_per_new_request, c.schedule_per_new_request},
      {"prepare_base", us(h.prepare_base), base},
      {"prepare_rpc", us(h.prepare_rpc), std::max(0.0, rpc)},
      {per_sequence_key(spec), p.per_sequence, c.per_sequence},
      {"launch_graph", p.launch_graph, c.launch_graph},
      {"launch_piece", us(h.launch_piece), piece},
      {"launch_kernel", kernel, c.eager * kernel},
      {"launch_experts", us(h.launch_experts), c.eager * us(h.launch_experts)},
      {"launch_collective", us(h.launch_collective), c.eager * us(h.launch_collective)},
      {"update_base", p.update_base, c.update_base},
      {"update_per_sequence", p.update_per_sequence, c.update_per_sequence}};
  return terms;
}

double jackknife(const std::vector<double>& left_out) {
  if (left_out.size() < 2) return 0;
  double mean = 0, sum = 0;
  for (const double v : left_out) mean += v / static_cast<double>(left_out.size());
  for (const double v : left_out) sum += (v - mean) * (v - mean);
  const double n = static_cast<double>(left_out.size());
  return std::sqrt((n - 1) / n * sum);
}

// Factors that make left-out experiments no better are not worth having.
void keep_unless_better(StepFit& fit) {
  double steps = 0, before = 0, after = 0;
  for (const FitError& e : fit.left_out) {
    if (!e.kind.starts_with("device")) continue;
    steps += static_cast<double>(e.steps);
    before += static_cast<double>(e.steps) * e.before;
    after += static_cast<double>(e.steps) * e.after;
  }
  if (steps <= 0 || after < before) return;
  for (FittedTerm& t : fit.operators) {
    if (!t.fitted) continue;
    t.fitted = false;
    t.note = "fitted " + format_fixed(t.value, 3) + " does not help experiments left out";
    t.value = t.before;
  }
}

// A server that never rests logs one experiment. Its quarters stand in for experiments, or nothing could be
// left out.
std::size_t cut_into_parts(std::vector<Sample>& samples) {
  constexpr std::size_t parts = 4;
  const bool one = samples.front().experiment == samples.back().experiment;
  if (!one || samples.size() < parts * least_steps) return 0;
  for (std::size_t i = 0; i < samples.size(); ++i) samples[i].experiment = i * parts / samples.size();
  return parts;
}

}  // namespace

Result<StepFit> fit_steps(const MeasuredRun& run, const InstanceSpec& spec,
                          const std::vector<std::string>& leave_out) {
  ORRERY_TRY(samples, samples_of(run, spec, leave_out));
  const Coefficients profile = of_profile(spec), all = fit_samples(samples, spec);

  StepFit fit;
  fit.steps = samples.size();
  fit.parts = cut_into_parts(samples);
  std::vector<std::size_t> experiments;
  for (const Sample& s : samples) {
    if (experiments.empty() || experiments.back() != s.experiment) experiments.push_back(s.experiment);
  }
  const std::vector<Kind> groups = kinds();
  std::vector<std::vector<double>> before(groups.size()), after(groups.size());
  std::map<std::string, std::vector<double>> values;  // by term, each experiment left out
  for (const std::size_t e : experiments) {
    std::vector<Sample> others;
    for (const Sample& s : samples) {
      if (s.experiment != e) others.push_back(s);
    }
    if (others.size() < least_steps) continue;
    const Coefficients c = fit_samples(others, spec);
    for (const Term& t : host_terms(c, spec)) values[t.key].push_back(t.value);
    for (std::size_t i = 0; i < op_class_count; ++i)
      values[to_string(static_cast<OpClass>(i))].push_back(c.operators[i]);
    for (const Sample& s : samples) {
      if (s.experiment != e) continue;
      for (std::size_t g = 0; g < groups.size(); ++g) {
        if (!groups[g].choose(s)) continue;
        before[g].push_back(std::abs(groups[g].predict(s, profile) / (s.*groups[g].logged) - 1) * 100);
        after[g].push_back(std::abs(groups[g].predict(s, c) / (s.*groups[g].logged) - 1) * 100);
      }
    }
  }

  fit.experiments = fit.parts > 0 ? 1 : experiments.size();
  fit.condition = all.condition;
  const auto add = [&](std::vector<FittedTerm>& list, const std::string& key, double was, double value,
                       const std::string& group) {
    FittedTerm term{key, was, value, jackknife(values[key]), true, ""};
    const auto kept = all.kept.count(key) > 0 ? all.kept.find(key) : all.kept.find(group);
    if (kept != all.kept.end()) {
      term.fitted = key == "launch_piece" && all.kept.count("launch_kernel") == 0;
      if (!term.fitted) term.value = was;
      term.note = kept->second;
    } else if (key == "launch_kernel" || key == "launch_experts" || key == "launch_collective") {
      term.note = "one factor for all launches: the log of one model cannot tell them apart";
    }
    list.push_back(std::move(term));
  };
  const bool alone = one_process(spec);
  for (const Term& t : host_terms(all, spec)) add(fit.host, t.key, t.before, t.value, "");
  for (FittedTerm& t : fit.host) {
    if (t.key != (alone ? "prepare_rpc" : "prepare_base")) continue;
    t.fitted = false;
    t.note = alone ? "one process: no message" : "the log holds it and prepare_rpc as one interval";
  }
  for (std::size_t i = 0; i < op_class_count; ++i)
    add(fit.operators, to_string(static_cast<OpClass>(i)), 1, all.operators[i], operator_group);
  for (std::size_t g = 0; g < groups.size(); ++g) {
    if (!before[g].empty())
      fit.left_out.push_back({groups[g].name, before[g].size(), median_of(before[g]), median_of(after[g])});
  }
  keep_unless_better(fit);
  return fit;
}

Result<std::vector<FitError>> step_errors(const MeasuredRun& run, const InstanceSpec& before,
                                          const InstanceSpec& after) {
  ORRERY_TRY(then, samples_of(run, before, {}));
  ORRERY_TRY(now, samples_of(run, after, {}));
  const Coefficients a = of_profile(before), b = of_profile(after);
  std::vector<FitError> out;
  for (const Kind& kind : kinds()) {
    std::vector<double> was, is;
    for (std::size_t i = 0; i < then.size(); ++i) {
      if (!kind.choose(then[i])) continue;
      was.push_back(std::abs(kind.predict(then[i], a) / (then[i].*kind.logged) - 1) * 100);
      is.push_back(std::abs(kind.predict(now[i], b) / (now[i].*kind.logged) - 1) * 100);
    }
    if (!was.empty()) out.push_back({kind.name, was.size(), median_of(was), median_of(is)});
  }
  return out;
}

}  // namespace orrery
