#include "cli/commands/energy_output.h"

#include "base/text.h"

namespace orrery {

namespace {

Json interval(const Joules& joules) { return Json::array({joules.nominal, joules.low, joules.high}); }

std::string between(const Joules& joules, int decimals) {
  return format_fixed(joules.nominal, decimals) + " J [" + format_fixed(joules.low, decimals) + ", " +
         format_fixed(joules.high, decimals) + "]";
}

}  // namespace

Json energy_json(const EnergyResult& e) {
  Json classes = Json::object();
  for (const auto& [name, joules] : e.by_class) classes[name] = joules;
  return Json{{"joules", interval(e.joules)},
              {"joules_per_output_token", interval(e.per_token)},
              {"joules_per_request", interval(e.per_request)},
              {"watts_per_gpu", e.watts_per_gpu},
              {"watts_per_gpu_while_busy", e.busy_watts},
              {"idle_joules", e.idle_joules},
              {"idle_share_of_time", e.idle_share},
              {"joules_by_class", classes},
              {"assumed_parts", e.assumed},
              {"of", "boards of GPUs; nominal, low, high (docs/energy.md)"}};
}

std::string energy_text(const EnergyResult& e) {
  return "energy      " + between(e.per_token, 3) + " an output token, " + between(e.per_request, 1) +
         " a request; " + format_fixed(e.watts_per_gpu, 0) + " W a GPU in the mean, " +
         format_fixed(e.busy_watts, 0) + " W while busy (boards of GPUs only" +
         (e.assumed.empty() ? "" : "; what the " + join(e.assumed, ", ") + " draws is assumed") + ")\n";
}

StepEnergy step_energy(const EnergyProfile& profile, const StepBreakdown& step) {
  StepEnergy out;
  out.assumed = profile.assumed();
  for (const OpLine& line : step.ops) out.joules += joules_of(profile, line);
  if (step.timing.busy > 0) out.watts = out.joules.nominal / (static_cast<double>(step.timing.busy) * 1e-9);
  return out;
}

Json step_energy_json(const StepEnergy& e) {
  return Json{{"joules_per_gpu", interval(e.joules)}, {"watts_while_busy", e.watts}, {"assumed", e.assumed}};
}

std::string step_energy_text(const StepEnergy& e) {
  return "energy: " + between(e.joules, 3) + " a GPU, " + format_fixed(e.watts, 0) + " W while busy" +
         (e.assumed ? " (assumed: docs/energy.md)\n" : "\n");
}

}  // namespace orrery
