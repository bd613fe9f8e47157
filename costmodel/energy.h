// What a part's board draws: idle, and while an operator of a class runs (hardware_profiles/energy/,
// docs/energy.md). Of parts without such a file nothing is said, and asking is an error that names it.
#pragma once

#include <map>
#include <string>

#include "base/result.h"
#include "costmodel/figure.h"
#include "costmodel/hardware.h"
#include "costmodel/step_pricer.h"

namespace orrery {

struct EnergyClass {
  Figure<Watts> floor;               // of any operator of the class that runs
  Figure<Watts> per_byte, per_flop;  // of a TB/s of HBM traffic, of a TFLOP/s: pJ each
  Figure<double> low, high;          // measured over this, at the tenth and ninetieth per cent
};
struct EnergyProfile {
  std::string name;
  Figure<Watts> idle;  // an engine up, nothing running
  Figure<double> idle_low, idle_high;
  double limit_w = 0;  // the part's `power`
  std::map<std::string, EnergyClass> classes;
  bool assumed() const;  // some of what it draws was measured by nobody
};

Result<EnergyProfile> load_energy(const HardwareProfile& hardware);

// Which class's figures an operator has: its own, products in FP8 apart; "other" of what has none.
std::string energy_class(const OpLine& line);

// Joules of one GPU over the line, within the limit; and between which they may lie.
struct Joules {
  double nominal = 0, low = 0, high = 0;
  Joules& operator+=(const Joules& other);
  Joules times(double factor) const { return {nominal * factor, low * factor, high * factor}; }
};
Joules joules_of(const EnergyProfile& profile, const OpLine& line);
Joules idle_joules(const EnergyProfile& profile, double seconds);

}  // namespace orrery
