// The order in which points are measured: most valuable first, so that a session that is cut off anywhere
// leaves the best tables that its time could buy.
//
// Value = share of the models' typical steps × error that measuring removes. The error is largest where
// nothing near is known, so the list goes in rounds: round 0 takes the ends and the middle of every axis for
// the shapes of the measured runs' models; each later round halves the gaps there, and adds further shapes
// coarsely. A shape's first round grows with the logarithm of its rank by share: the tenth shape of an
// operator tells less than the first, because utilisation carries over between shapes. Round 0 also takes the
// coarsest points of operators that it would lack. Round 1 begins with the probes and then completes the
// grids of the measured runs' models, the one after the other: GEMMs, decode, prefill, routed grouped GEMMs,
// row-wise operators; each coarse to fine. Inside a round
// operators take turns in proportion to their share, at least a few per cent each; an operator's own points
// go by value. Equal values go by name, so the order is a function of the profiles alone. What takes more
// than 6 ms by its roofline is not planned: the same time buys dozens of points, and utilisation carries over
// to long kernels best.
#pragma once

#include <string>
#include <vector>

#include "calibrate/demand.h"

namespace orrery::calibrate {

struct PlanOptions {
  DemandOptions demand;
  std::vector<std::string> ops;  // operators, tables or "table/format"; empty = all
  std::size_t max_points = 0;    // 0 = all
};

Result<std::vector<Point>> plan_points(const HardwareProfile& hardware, const PlanOptions& options);
std::vector<Point> order_points(Demand demand);

// Round in which a family of this rank (0 = largest share) starts, when `first` families start in round 1.
int starting_round(std::size_t rank, std::size_t first, bool focus);

}  // namespace orrery::calibrate
