#include "reports/casebook/host_level.h"

#include <algorithm>
#include <cmath>

#include "base/det_math.h"
#include "base/json.h"
#include "reports/casebook/robust_fit.h"

namespace orrery {

namespace {

// Of launches beside decodes, which vary, twice as many as of others.
constexpr std::size_t least_of_median = 6, least_of_mean = 12, least_of_experiment = 3;
constexpr double alike = 10, alike_apart = 3;  // so many steps count as one
// Loads of one host differ by so much (log): reports/results/host_pace.md.
constexpr double between_loads = 0.1;
// A level is taken where that is expected to come nearer than the profile: its own squared deviation against
// what the squared difference holds beyond such a deviation.
constexpr double beyond_noise = 1.4142135623730951;

// Every step of a load counts, and loads differ.
struct Load {
  double level, within, steps;
};

Load load_of(const std::vector<double>& values, LevelOf what) {
  const double level = what == LevelOf::middle_mean ? middle_mean(values) : median_of(values);
  std::vector<double> off;  // a robust deviation: stalls are not what one load's level is unsure by
  for (const double v : values) off.push_back(std::abs(v - level));
  const double n = static_cast<double>(values.size());
  const double deviation = level > 0 ? 1.4826 * median_of(off) / level : 0;
  return {level, deviation / std::sqrt(std::max(1.0, n / (what == LevelOf::apart ? alike_apart : alike))), n};
}

}  // namespace

double middle_mean(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t cut = values.size() / 10;
  double sum = 0;
  for (std::size_t i = cut; i < values.size() - cut; ++i) sum += values[i];
  return sum / static_cast<double>(values.size() - 2 * cut);
}

double middle_mean_of_spread(const HostCosts& host) {
  constexpr int points = 200;
  constexpr double tenth = 1.2815515655446004;  // of the normal distribution
  double sum = 0, weight = 0;
  for (int i = 0; i < points; ++i) {
    const double z = tenth * (2 * (i + 0.5) / points - 1);
    const double density = det_exp(-z * z / 2);
    const double deviation = z < 0 ? host.launch_jitter_below.value : host.launch_jitter_above.value;
    sum += density * det_exp(deviation * z);
    weight += density;
  }
  return host.launch_jitter_median.value * sum / weight;
}

HostLevel host_level(const char* kind, const LevelRatios& ratios, LevelOf what, double host_error) {
  HostLevel out;
  out.kind = kind;
  std::vector<Load> loads;
  for (const auto& [e, values] : ratios) {
    out.steps += values.size();
    if (values.size() < least_of_experiment) continue;
    const Load load = load_of(values, what);
    if (load.level > 0) loads.push_back({det_log(load.level), load.within, load.steps});
  }
  out.experiments = loads.size();
  out.few = out.steps < (what == LevelOf::middle_mean ? least_of_mean : least_of_median) || loads.empty();
  if (out.few) return out;
  double steps = 0, mean = 0, spread = 0, error = 0;
  for (const Load& l : loads) steps += l.steps;
  for (const Load& l : loads) mean += l.steps / steps * l.level;
  for (const Load& l : loads) spread += l.steps / steps * (l.level - mean) * (l.level - mean);
  for (const Load& l : loads)
    error += l.steps / steps * l.steps / steps *
             (std::max(spread, between_loads * between_loads) + l.within * l.within);
  out.deviation = std::sqrt(error);
  const double posterior = mean * host_error * host_error / (host_error * host_error + error);
  out.told = std::abs(posterior) > beyond_noise * out.deviation;
  out.factor = det_exp(posterior);
  return out;
}

const char* verdict_of(const HostLevel& level) {
  if (level.few) return "too few";
  if (!level.told) return "within noise";
  return level.refused ? "refused" : "taken";
}

std::string level_text(const HostLevel& level) {
  if (level.few) return "too few steps say something of it";
  return format_fixed(level.factor, 2) + " of the profile's, within noise (± " +
         format_fixed(level.deviation, 2) + ", " + std::to_string(level.steps) + " steps)";
}

}  // namespace orrery
