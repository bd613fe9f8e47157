// Which operators, at which shapes, the models' steps are made of, and what share of such a step each is:
// the models' graphs as the cost model builds them, for every plan that divides.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "calibrate/point.h"
#include "costmodel/hardware.h"

namespace orrery::calibrate {

struct DemandOptions {
  std::vector<std::string> models;  // names in model_profiles/; empty = all
  bool between = false;             // values between those of the axes: axes_between()
  std::size_t memory_bytes = 0;     // of the device: operands that cannot fit are not planned
};

// Points that belong to one curve or surface, which share what is known about them: one (n, k) of a GEMM, one
// head layout of an attention.
struct Family {
  double share = 0;
  bool focus = false;  // of a model whose measured runs the accuracy report is about
};

struct Demand {
  std::map<std::string, Point> points;           // by key; `round` holds the level on the axes
  std::map<std::string, std::string> family_of;  // key → family
  std::map<std::string, Family> families;
};

// Errors: an unknown model, a hardware profile that lacks a figure.
Result<Demand> collect_demand(const HardwareProfile& hardware, const DemandOptions& options);

}  // namespace orrery::calibrate
