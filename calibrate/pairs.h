// Kernel pairs of the case studies, before and after (reports/cases/pairs.yaml): priced on the part of which
// a ratio was published, and timed on a device where our kernels have both sides.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "calibrate/measure.h"
#include "kernels/kernel_case.h"

namespace orrery::calibrate {

// One launch of a side, or several alike.
struct PairOp {
  kernels::CaseSpec spec;
  std::int64_t times = 1;
  // Of the block products: "" = the kernel's own choice, or rows × columns, operands not swapped.
  // Of vLLM's experts: "default" or "tuned", priced by the tile law, with tokens of the batch.
  std::string tile;
  std::int64_t tokens = 0;
};

struct PairShape {
  std::string text;  // what the file says of it: "m=16 n=2304"
  std::vector<PairOp> before, after;
};

struct KernelPair {
  std::string name, study, what;  // study: the case, "c1"
  double low = 0, high = 0;       // published before ÷ after; 0: no number was
  std::string source, part, kernels;
  std::string not_priced, not_measured;  // why one of the sides is missing; empty: both are there
  std::vector<PairShape> shapes;
};

Result<std::vector<KernelPair>> load_pairs(const std::string& path);
std::string pairs_path();

// Microseconds of both sides at one shape; a reason where there are none.
struct PairFigure {
  std::string shape, why;
  double before_us = 0, after_us = 0;
  std::string detail;  // what priced or ran each side
  double ratio() const { return after_us > 0 ? before_us / after_us : 0; }
};

std::vector<PairFigure> price_pair(const KernelPair& pair);

// `time`: one operator, as measured; tests give another.
using TimeOp = std::function<Measurement(const kernels::CaseSpec&)>;
std::vector<PairFigure> measure_pair(const KernelPair& pair, const TimeOp& time);

}  // namespace orrery::calibrate
