#include "sim/costed/energy.h"

#include <algorithm>

#include "sim/costed/image_processor.h"
#include "sim/costed/mean_steps.h"

namespace orrery {

namespace {

Error not_followed(const Scenario& scenario, const char* what, const char* key) {
  return invalid_input(std::string("energy is not followed with ") + what + " (docs/energy.md)",
                       {scenario.file, 0, 0}, key);
}

}  // namespace

Result<EnergyMeter> EnergyMeter::create(const Scenario& scenario) {
  EnergyMeter meter;
  if (!scenario.faults.empty()) return not_followed(scenario, "faults", "faults");
  for (const PoolSpec* pool : scenario.pools()) {
    if (pool->autoscale) return not_followed(scenario, "autoscale", "deployment.autoscale");
    if (pool->instance.plan.pp > 1)
      return not_followed(scenario, "pipeline stages", "deployment.parallel.pp");
    if (takes_images(pool->instance))
      return not_followed(scenario, "models that take images", "deployment.model");
    ORRERY_TRY(profile, load_energy(pool->instance.hardware));
    meter.pools_.push_back({.profile = std::move(profile),
                            .gpus = pool->gpus(),
                            .instances = pool->replicas * pool->instance.engines,
                            .busy_s = 0,
                            .joules = {}});
  }
  return meter;
}

// A GPU's lines of the mean step of each kind, as often as its time holds; each of an instance's GPUs draws
// the same.
void EnergyMeter::add(std::size_t number, const StepPricer& pricer, const CostModelExecutor::Usage& usage) {
  Pool& pool = pools_[number];
  const double each = static_cast<double>(pool.gpus) / static_cast<double>(pool.instances);
  for (const MeanStep& mean : mean_steps(pricer, usage)) {
    const double times = mean.times() * each;
    for (const OpLine& line : mean.step.ops) {
      const Joules joules = joules_of(pool.profile, line).times(times);
      pool.joules += joules;
      const std::string name = energy_class(line);
      auto row =
          std::find_if(by_class_.begin(), by_class_.end(), [&](const auto& r) { return r.first == name; });
      if (row == by_class_.end()) row = by_class_.insert(by_class_.end(), {name, 0.0});
      row->second += joules.nominal;
    }
    pool.busy_s += static_cast<double>(mean.ns) * 1e-9 * each;
  }
}

EnergyResult EnergyMeter::result(const RunResult& run) const {
  EnergyResult out;
  out.span_s = (run.last_finish - run.first_arrival).seconds();
  double busy_s = 0;
  for (const Pool& pool : pools_) {
    const std::string& part = pool.profile.name;
    if (pool.profile.assumed() &&
        std::find(out.assumed.begin(), out.assumed.end(), part) == out.assumed.end())
      out.assumed.push_back(part);
    out.gpus += pool.gpus;
    const double all = static_cast<double>(pool.gpus) * out.span_s;
    const Joules idle = idle_joules(pool.profile, std::max(0.0, all - pool.busy_s));
    out.joules += pool.joules;
    out.joules += idle;
    out.idle_joules += idle.nominal;
    busy_s += pool.busy_s;
  }
  const double gpu_s = static_cast<double>(out.gpus) * out.span_s;
  if (gpu_s <= 0) return out;
  out.idle_share = std::max(0.0, 1 - busy_s / gpu_s);
  out.watts_per_gpu = out.joules.nominal / gpu_s;
  out.busy_watts = busy_s > 0 ? (out.joules.nominal - out.idle_joules) / busy_s : 0;
  // A warm-up is run and not measured: its share of the energy goes with its time.
  const double measured = (run.last_finish - run.measured_from).seconds() / out.span_s;
  if (run.output_tokens > 0)
    out.per_token = out.joules.times(measured / static_cast<double>(run.output_tokens));
  if (run.completed > 0) out.per_request = out.joules.times(measured / static_cast<double>(run.completed));
  out.by_class = by_class_;
  std::stable_sort(out.by_class.begin(), out.by_class.end(),
                   [](const auto& a, const auto& b) { return a.second > b.second; });
  return out;
}

}  // namespace orrery
