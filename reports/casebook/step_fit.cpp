#include "reports/casebook/step_fit.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>

#include "reports/casebook/robust_fit.h"
#include "reports/casebook/step_terms.h"

namespace orrery {

namespace {

using Sample = StepSample;
using Mode = StepSample::Mode;

double us(const Figure<Seconds>& figure) { return figure.value.value() * 1e6; }

struct Kind {
  const char* name;
  const char* group;  // of host terms that is judged by it (step_terms.h), or ""
  bool (*choose)(const Sample&);
  double (*predict)(const Sample&, const StepTerms&);
  double Sample::*logged;
};

const Kind kinds[] = {
    {"launch, graph", "graph", [](const Sample& s) { return s.replayed(); }, launch_of, &Sample::launch},
    {"launch, piecewise", "", [](const Sample& s) { return s.mode == Mode::piecewise && s.unblocked(); },
     launch_of, &Sample::launch},
    {"launch, eager", "", [](const Sample& s) { return s.mode == Mode::none && s.unblocked(); }, launch_of,
     &Sample::launch},
    {"device, decode", "", [](const Sample& s) { return !s.prompts && s.on_time(); }, device_of,
     &Sample::device},
    {"device, prompts", "", [](const Sample& s) { return s.prompts && s.on_time(); }, device_of,
     &Sample::device},
    {"schedule", "schedule", [](const Sample& s) { return s.schedule > 0; }, schedule_of, &Sample::schedule},
    {"handover", "handover", [](const Sample& s) { return s.mode == Mode::full && s.handover > 0; },
     handover_of, &Sample::handover},
    {"update", "update", [](const Sample& s) { return s.update > 0; }, update_of, &Sample::update}};
constexpr std::size_t kind_count = std::size(kinds);

double error_of(const Kind& kind, const Sample& s, const StepTerms& t) {
  return std::abs(kind.predict(s, t) / (s.*kind.logged) - 1) * 100;
}

struct Term {
  const char* key;
  const char* group;
  double before, value;
  const char* unit = "us";
};

// launch_kernel's factor also changes what stands between the pieces; the pieces take the rest.
std::vector<Term> host_terms(const StepTerms& c, const InstanceSpec& spec) {
  const HostCosts& h = spec.engine.host;
  const StepTerms p = terms_of_profile(spec);
  const double layers = static_cast<double>(spec.model.layers), kernel = us(h.launch_kernel);
  const double pieces = us(h.launch_piece) * (layers + 1) + 2 * layers * kernel;
  const double piece = std::max(0.0, (c.piecewise * pieces - 2 * layers * c.eager * kernel) / (layers + 1));
  const bool alone = one_process(spec);
  const double base = alone ? c.handover : us(h.prepare_base),
               rpc = alone ? us(h.prepare_rpc) : c.handover - base;
  return {{"schedule_base", "schedule", p.schedule_base, c.schedule_base},
          {"schedule_per_sequence", "schedule", p.schedule_per_sequence, c.schedule_per_sequence},
          {"schedule_per_new_request", "schedule", p.schedule_per_new_request, c.schedule_per_new_request},
          {"prepare_base", "handover", us(h.prepare_base), base},
          {"prepare_rpc", "handover", us(h.prepare_rpc), std::max(0.0, rpc)},
          {per_sequence_key(spec), "graph", p.per_sequence, c.per_sequence},
          {"launch_graph", "graph", p.launch_graph, c.launch_graph},
          {"launch_piece", "", us(h.launch_piece), piece},
          {"launch_kernel", "", kernel, c.eager * kernel},
          {"launch_experts", "", us(h.launch_experts), c.eager * us(h.launch_experts)},
          {"launch_collective", "", us(h.launch_collective), c.eager * us(h.launch_collective)},
          {"launch_jitter_median", "", p.jitter_median, c.jitter_median, "ratio"},
          {"update_base", "update", p.update_base, c.update_base},
          {"update_per_sequence", "update", p.update_per_sequence, c.update_per_sequence}};
}

double jackknife(const std::vector<double>& left_out) {
  if (left_out.size() < 2) return 0;
  double mean = 0, sum = 0;
  for (const double v : left_out) mean += v / static_cast<double>(left_out.size());
  for (const double v : left_out) sum += (v - mean) * (v - mean);
  const double n = static_cast<double>(left_out.size());
  return std::sqrt((n - 1) / n * sum);
}

// Parts of a log that are left out in turn: its experiments, and of one that holds over a quarter of all
// steps as many stretches as make quarters. Otherwise a server that never rests would leave nothing to
// predict, and a long load would be judged by a handful of steps ahead of it. Returns the number of
// experiments.
std::size_t cut_into_parts(std::vector<Sample>& samples) {
  const std::size_t most = std::max(samples.size() / 4 + 1, 4 * least_steps);
  std::size_t experiments = 0, part = 0;
  for (std::size_t begin = 0, end = 0; begin < samples.size(); begin = end) {
    while (end < samples.size() && samples[end].experiment == samples[begin].experiment) ++end;
    ++experiments;
    const std::size_t count = (end - begin + most - 1) / most;
    for (std::size_t i = begin; i < end; ++i) samples[i].part = part + (i - begin) * count / (end - begin);
    part += count;
  }
  return experiments;
}

// Of a part of the log: median error before less after, and how many steps say so.
struct Gain {
  double value = 0, steps = 0;
};

// Each part predicted from the others.
struct LeftOut {
  std::vector<double> before[kind_count], after[kind_count];  // errors of steps, percent
  std::vector<Gain> gain[kind_count];                         // by part
  std::map<std::string, std::vector<double>> values;          // by term
};

LeftOut leave_each_out(const std::vector<Sample>& samples, const InstanceSpec& spec,
                       const std::set<std::string>& refused) {
  constexpr std::size_t least_of_kind = 4;
  LeftOut out;
  const StepTerms profile = terms_of_profile(spec);
  for (std::size_t part = 0; part <= samples.back().part; ++part) {
    std::vector<Sample> others, own;
    for (const Sample& s : samples) (s.part == part ? own : others).push_back(s);
    if (others.size() < least_steps) continue;
    const StepTerms c = fit_terms(others, spec, refused);
    for (const Term& t : host_terms(c, spec)) out.values[t.key].push_back(t.value);
    for (std::size_t i = 0; i < op_class_count; ++i)
      out.values[to_string(static_cast<OpClass>(i))].push_back(c.operators[i]);
    for (std::size_t k = 0; k < kind_count; ++k) {
      std::vector<double> was, is;
      for (const Sample& s : own) {
        if (!kinds[k].choose(s)) continue;
        was.push_back(error_of(kinds[k], s, profile));
        is.push_back(error_of(kinds[k], s, c));
      }
      if (was.size() >= least_of_kind)
        out.gain[k].push_back({median_of(was) - median_of(is), static_cast<double>(was.size())});
      out.before[k].insert(out.before[k].end(), was.begin(), was.end());
      out.after[k].insert(out.after[k].end(), is.begin(), is.end());
    }
  }
  return out;
}

struct Mean {
  double value = 0, error = 0;
};

Mean mean_of(const std::vector<Gain>& gains) {
  Mean m;
  double steps = 0, sum = 0;
  for (const Gain& g : gains) steps += g.steps;
  for (const Gain& g : gains) m.value += g.value * g.steps / steps;
  for (const Gain& g : gains) sum += g.steps * g.steps * (g.value - m.value) * (g.value - m.value);
  const double n = static_cast<double>(gains.size());
  if (n > 1) m.error = std::sqrt(sum * n / (n - 1)) / steps;
  return m;
}

// Factors of operators have to predict what they have not seen better than the profile does: on average over
// parts of the log, by more than that average's own error, and neither kind of step for the worse.
bool operators_help(const LeftOut& left_out) {
  std::vector<Gain> gains;
  for (std::size_t k = 0; k < kind_count; ++k) {
    if (!std::string_view(kinds[k].name).starts_with("device") || left_out.gain[k].empty()) continue;
    if (mean_of(left_out.gain[k]).value < 0) return false;
    gains.insert(gains.end(), left_out.gain[k].begin(), left_out.gain[k].end());
  }
  if (gains.size() < 2) return false;
  const Mean mean = mean_of(gains);
  return mean.value > mean.error;
}

// Groups of terms that do not predict what was left out better than the profile does.
std::set<std::string> refused_groups(const LeftOut& left_out) {
  std::set<std::string> refused;
  if (!operators_help(left_out)) refused.insert("operators");
  for (std::size_t k = 0; k < kind_count; ++k) {
    if (*kinds[k].group != 0 && median_of(left_out.after[k]) > median_of(left_out.before[k]))
      refused.insert(kinds[k].group);
  }
  return refused;
}

std::vector<std::string> warnings_of(const StepFit& fit, const StepTerms& terms) {
  std::vector<std::string> out;
  const HostLevel &lone = terms.lone, &beside = terms.beside;
  if (beside.few)
    out.push_back(
        "The log has " + std::to_string(beside.steps) +
        " steps of prompts beside decodes that were launched kernel by kernel at the host's pace: what "
        "a busy engine's launches take is the profile's. Log the load itself, for minutes.");
  if (beside.few && lone.told)
    out.push_back(
        "Prompts alone say what prompts alone take; they find a host that slept, and say nothing of a "
        "busy one.");
  if (!beside.few && beside.experiments < 2 && fit.parts == 0)
    out.push_back(
        "Prompts beside decodes come from one load: a host that changes its pace between loads is not "
        "seen. Log several, a minute apart.");
  if (fit.parts > 0)
    out.push_back(
        "One load, cut into parts: what differs from load to load is not seen. Let the server rest "
        "for a second now and then, and log more than one.");
  return out;
}

// "meta-llama/Meta-Llama-3.1-8B" → "metallama318b".
std::string plain_name(const std::string& model) {
  std::string out;
  for (const char c : model.substr(model.rfind('/') + 1)) {
    if (c >= 'A' && c <= 'Z') out += static_cast<char>(c - 'A' + 'a');
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) out += c;
  }
  return out;
}

// The scenario says what ran; the log of something else would be fitted all the same.
void warn_of_another(const MeasuredEngine& log, const InstanceSpec& spec, std::vector<std::string>& out) {
  const std::string logged = plain_name(log.model), ours = plain_name(spec.model.name);
  if (logged.find(ours) == std::string::npos && ours.find(logged) == std::string::npos)
    out.push_back("The log's engine served " + log.model + ", the scenario says " + spec.model.name + ".");
  const std::string engine = log.sglang ? "sglang" : "vllm";
  if (spec.engine.engine != engine)
    out.push_back("The log is one of " + engine + ", the scenario's engine is " + spec.engine.name + ".");
}

FittedTerm fitted_term(const Term& t, const StepTerms& terms, const std::vector<double>& left_out) {
  FittedTerm out{t.key, t.before, t.value, jackknife(left_out), true, "", t.unit};
  const auto kept =
      terms.kept.count(t.key) > 0 ? terms.kept.find(t.key) : terms.kept.find(std::string(t.group));
  if (kept != terms.kept.end()) {
    out.fitted = false;
    out.value = t.before;
    out.note = kept->second;
  } else if (const auto note = terms.notes.find(t.key); note != terms.notes.end()) {
    out.note = note->second;
  }
  return out;
}

}  // namespace

Result<StepFit> fit_steps(const MeasuredRun& run, const InstanceSpec& spec,
                          const std::vector<std::string>& leave_out) {
  ORRERY_TRY(samples, step_samples(run, spec, leave_out));
  StepFit fit;
  fit.steps = samples.size();
  fit.experiments = cut_into_parts(samples);
  if (fit.experiments == 1 && samples.back().part > 0) fit.parts = samples.back().part + 1;
  const std::set<std::string> refused = refused_groups(leave_each_out(samples, spec, {}));
  const LeftOut left_out = leave_each_out(samples, spec, refused);
  const StepTerms all = fit_terms(samples, spec, refused);

  fit.condition = all.condition;
  fit.levels = all.levels;
  const auto values_of = [&](const std::string& key) {
    const auto at = left_out.values.find(key);
    return at == left_out.values.end() ? std::vector<double>{} : at->second;
  };
  for (const Term& t : host_terms(all, spec)) fit.host.push_back(fitted_term(t, all, values_of(t.key)));
  const bool alone = one_process(spec);
  for (FittedTerm& t : fit.host) {
    if (t.key != (alone ? "prepare_rpc" : "prepare_base")) continue;
    t.fitted = false;
    t.note = alone ? "one process: no message" : "the log holds it and prepare_rpc as one interval";
  }
  for (std::size_t i = 0; i < op_class_count; ++i) {
    const char* name = to_string(static_cast<OpClass>(i));
    fit.operators.push_back(
        fitted_term({name, "operators", 1, all.operators[i], "ratio"}, all, values_of(name)));
  }
  for (std::size_t k = 0; k < kind_count; ++k) {
    if (!left_out.before[k].empty())
      fit.left_out.push_back({kinds[k].name, left_out.before[k].size(), median_of(left_out.before[k]),
                              median_of(left_out.after[k])});
  }
  fit.warnings = warnings_of(fit, all);
  warn_of_another(run.engine, spec, fit.warnings);
  return fit;
}

Result<std::vector<FitError>> step_errors(const MeasuredRun& run, const InstanceSpec& before,
                                          const InstanceSpec& after) {
  ORRERY_TRY(then, step_samples(run, before, {}));
  ORRERY_TRY(now, step_samples(run, after, {}));
  const StepTerms a = terms_of_profile(before), b = terms_of_profile(after);
  std::vector<FitError> out;
  for (const Kind& kind : kinds) {
    std::vector<double> was, is;
    for (std::size_t i = 0; i < then.size(); ++i) {
      if (!kind.choose(then[i])) continue;
      was.push_back(error_of(kind, then[i], a));
      is.push_back(error_of(kind, now[i], b));
    }
    if (!was.empty()) out.push_back({kind.name, was.size(), median_of(was), median_of(is)});
  }
  return out;
}

}  // namespace orrery
