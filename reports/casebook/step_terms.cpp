#include "reports/casebook/step_terms.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "base/json.h"
#include "reports/casebook/launch_levels.h"
#include "reports/casebook/robust_fit.h"

namespace orrery {

namespace {

using Sample = StepSample;
using Choose = std::function<bool(const Sample&)>;
using Row = std::function<std::vector<double>(const Sample&)>;
using Value = std::function<double(const Sample&)>;

// Rows of one engine are alike, step after step: a hundred count as one.
constexpr double alike = 10;

double us(const Figure<Seconds>& figure) { return figure.value.value() * 1e6; }

// Terms of one interval: value ≈ Σ termⱼ·xⱼ. A host that is slow is slow in all of its work: each term is
// expected at the interval's level over the profile's, and may differ from that by what fits to three runs of
// one host differ by (engine_profiles/vllm-0.24.yaml: 0.2 of bases, 0.4 of what stands per sequence). What a
// log cannot tell apart moves together. Nothing where there are too few samples.
std::vector<double> fit_interval(const std::vector<Sample>& samples, const Choose& choose, const Row& row,
                                 const Value& value, const std::vector<double>& profile, double level) {
  std::vector<std::vector<double>> rows;
  std::vector<double> y;
  for (const Sample& s : samples) {
    if (!choose(s)) continue;
    rows.push_back(row(s));
    y.push_back(value(s));
  }
  if (rows.size() < least_steps) return {};
  std::vector<Prior> priors;
  for (std::size_t j = 0; j < profile.size(); ++j) {
    const double expected = level * profile[j];
    priors.push_back({expected, std::max((j == 0 ? 0.2 : 0.4) * expected, 0.01) / alike, 0});
  }
  return robust_fit(rows, y, priors).value;
}

bool replayed(const Sample& s) { return s.replayed(); }
bool any(const Sample&) { return true; }

// Terms of one interval where its level is beyond noise; empty, and said why, where they are the profile's.
struct Interval {
  const char* group;
  const char* kind;
  bool (*choose)(const Sample&);
  Row row;
  double Sample::*logged;
  double (*predict)(const Sample&, const StepTerms&);
};

std::vector<double> taken(const std::vector<Sample>& samples, const InstanceSpec& spec,
                          const Interval& interval, const std::vector<double>& profile, StepTerms& t) {
  LevelRatios ratios;
  for (const Sample& s : samples) {
    if (const double priced = interval.predict(s, t); interval.choose(s) && priced > 0)
      ratios[s.experiment].push_back(s.*interval.logged / priced);
  }
  HostLevel level = host_level(interval.kind, ratios, LevelOf::median, host_doubt(spec));
  level.refused = t.kept.count(interval.group) > 0;
  t.levels.push_back(level);
  if (!level.told) t.kept[interval.group] = level_text(level);
  if (t.kept.count(interval.group) > 0) return {};
  auto b = fit_interval(
      samples, interval.choose, interval.row,
      [&](const Sample& s) { return s.*interval.logged - (interval.predict == launch_of ? s.excess : 0); },
      profile, level.factor);
  if (b.empty()) t.kept[interval.group] = "too few steps";
  return b;
}

void fit_core(const std::vector<Sample>& samples, const InstanceSpec& spec, StepTerms& t) {
  const Interval schedule{"schedule",
                          "schedule",
                          any,
                          [](const Sample& s) {
                            return std::vector<double>{1, s.running, s.admitted};
                          },
                          &Sample::schedule,
                          schedule_of};
  if (const auto b = taken(samples, spec, schedule,
                           {t.schedule_base, t.schedule_per_sequence, t.schedule_per_new_request}, t);
      !b.empty()) {
    t.schedule_base = b[0];
    t.schedule_per_sequence = b[1];
    t.schedule_per_new_request = b[2];
  }
  const Interval handover{"handover",        "end of schedule to launch",
                          replayed,          [](const Sample&) { return std::vector<double>{1}; },
                          &Sample::handover, handover_of};
  if (const auto b = taken(samples, spec, handover, {t.handover}, t); !b.empty()) t.handover = b[0];
  const auto sequences = [](const Sample& s) { return std::vector<double>{1, s.sequences}; };
  const Interval update{"update", "update", any, sequences, &Sample::update, update_of};
  if (const auto b = taken(samples, spec, update, {t.update_base, t.update_per_sequence}, t); !b.empty()) {
    t.update_base = b[0];
    t.update_per_sequence = b[1];
  }
  const Interval graph{"graph", "launch of a graph", replayed, sequences, &Sample::launch, launch_of};
  if (const auto b = taken(samples, spec, graph, {t.launch_graph, t.per_sequence}, t); !b.empty()) {
    t.launch_graph = b[0];
    t.per_sequence = b[1];
  }
}

void fit_launches(const std::vector<Sample>& samples, const InstanceSpec& spec, StepTerms& t) {
  const LaunchLevels levels = launch_levels(samples, spec, t.launch_graph, t.per_sequence);
  t.eager = levels.eager;
  t.piecewise = levels.piecewise;
  t.jitter_median *= levels.jitter;
  for (const auto& [key, why] : levels.kept) t.kept[key] = why;
  for (const auto& [key, why] : levels.notes) t.notes[key] = why;
  t.lone = levels.lone;
  t.beside = levels.beside;
  for (const HostLevel& l : {levels.lone, levels.lone_pieces, levels.beside, levels.beside_pieces})
    t.levels.push_back(l);
}

// One factor per class that the log can tell: the class that the data leave most uncertain is set to 1 and
// the others are fitted again, until all that are left stand.
void fit_operators(const std::vector<Sample>& samples, StepTerms& t) {
  constexpr double wide_enough = 0.2;
  std::vector<const Sample*> rows;
  for (const Sample& s : samples) {
    if (s.on_time()) rows.push_back(&s);
  }
  if (rows.size() < least_steps) {
    t.kept["operators"] = "too few steps whose launches did not hold the device up";
    return;
  }
  std::vector<std::size_t> free;
  for (std::size_t i = 0; i < op_class_count; ++i) {
    const bool used = std::any_of(rows.begin(), rows.end(), [&](const Sample* s) { return s->parts[i] > 0; });
    if (used)
      free.push_back(i);
    else
      t.kept[to_string(static_cast<OpClass>(i))] = "does not occur in the log";
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
    const RobustFit fit =
        robust_fit(x, y, std::vector<Prior>(free.size(), Prior{1, wide_enough / alike, 0.05}));
    const auto widest = std::max_element(fit.deviation.begin(), fit.deviation.end());
    if (alike * *widest < wide_enough) {
      t.condition = fit.condition;
      for (std::size_t k = 0; k < free.size(); ++k) t.operators[free[k]] = fit.value[k];
      return;
    }
    const auto at = free.begin() + (widest - fit.deviation.begin());
    t.kept[to_string(static_cast<OpClass>(*at))] = "the log cannot tell it from the others";
    free.erase(at);
  }
}

void refuse_operators(StepTerms& t) {
  for (std::size_t i = 0; i < op_class_count; ++i) {
    if (t.operators[i] != 1)
      t.kept[to_string(static_cast<OpClass>(i))] =
          "fitted " + format_fixed(t.operators[i], 3) + " does not help what was left out, beyond chance";
    t.operators[i] = 1;
  }
}

}  // namespace

bool one_process(const InstanceSpec& spec) {
  return spec.engine.single_process_per_gpu ||
         (spec.engine.single_process_at_one_gpu && spec.plan.gpus() * spec.engines == 1);
}

const char* per_sequence_key(const InstanceSpec& spec) {
  return spec.engine.runner == "v1" ? "prepare_per_sequence_v1" : "prepare_per_sequence";
}

StepTerms terms_of_profile(const InstanceSpec& spec) {
  const HostCosts& h = spec.engine.host;
  StepTerms t;
  t.schedule_base = us(h.schedule_base);
  t.schedule_per_sequence = us(h.schedule_per_sequence);
  t.schedule_per_new_request = us(h.schedule_per_new_request);
  t.handover = us(h.prepare_base) + (one_process(spec) ? 0 : us(h.prepare_rpc));
  t.launch_graph = us(h.launch_graph);
  t.per_sequence = us(spec.engine.runner == "v1" ? h.prepare_per_sequence_v1 : h.prepare_per_sequence);
  t.jitter_median = h.launch_jitter_median.value;
  t.update_base = us(h.update_base);
  t.update_per_sequence = us(h.update_per_sequence);
  t.operators.fill(1);
  return t;
}

StepTerms fit_terms(const std::vector<StepSample>& samples, const InstanceSpec& spec,
                    const std::set<std::string>& refused) {
  StepTerms t = terms_of_profile(spec);
  for (const std::string& group : refused)
    t.kept[group] = group == "operators" ? "does not help what was left out, beyond chance"
                                         : "the log's makes what was left out worse";
  fit_core(samples, spec, t);
  fit_launches(samples, spec, t);
  fit_operators(samples, t);
  if (refused.count("operators") > 0) refuse_operators(t);
  return t;
}

double schedule_of(const StepSample& s, const StepTerms& t) {
  return t.schedule_base + t.schedule_per_sequence * s.running + t.schedule_per_new_request * s.admitted;
}

double handover_of(const StepSample&, const StepTerms& t) { return t.handover; }

double launch_of(const StepSample& s, const StepTerms& t) {
  // Beside a graph's launch only drafting is launched kernel by kernel.
  const double factor = s.mode == StepSample::Mode::piecewise ? t.piecewise : t.eager;
  const double launch = t.launch_graph + factor * s.excess;
  return t.per_sequence * s.sequences + (s.beside() ? t.jitter_median : 1) * launch;
}

double update_of(const StepSample& s, const StepTerms& t) {
  return t.update_base + t.update_per_sequence * s.sequences;
}

double device_of(const StepSample& s, const StepTerms& t) {
  double sum = 0;
  for (std::size_t i = 0; i < op_class_count; ++i) sum += t.operators[i] * s.parts[i];
  return sum;
}

}  // namespace orrery
