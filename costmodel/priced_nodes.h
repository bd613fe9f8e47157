// The operators of one step in numbers: what breakdowns and intervals are made of (breakdown.cpp,
// staged_price.cpp).
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "costmodel/pricer_state.h"

namespace orrery {

// One operator of one step.
struct PricedNode {
  std::size_t node = 0;
  OpCost cost;
  std::int64_t ns = 0;
};

// Where popularity is not uniform: what the layers' slowest ranks have on average. Their times on average are
// another thing by a few percent at most, which goes to the largest line with the rounding rest.
std::optional<RankLoad> mean_load(const PricerState& s, const PaddedStep& padded);

// The operators that take part, in launch order. Their times sum to `busy` exactly: the rounding rest goes to
// the largest.
void price_nodes(const PricerState& s, const StepShape& shape, const PaddedStep& padded, std::int64_t busy,
                 const RankLoad* load, std::vector<PricedNode>& out);

OpLine describe(const PricerState& s, const PricedNode& priced, const StepInput& input);

// What a sum of operators may be wrong by, and what most of it waits for.
struct Doubt {
  std::array<double, op_class_count> by_class{};  // Σ time · deviation
  std::array<double, 4> by_bound{};               // nanoseconds
  double total = 0;
  void add(const PricerState& s, const std::vector<PricedNode>& nodes, double times);
  // One standard deviation of log(Σ time): lines of one operator class are wrong together, classes
  // independently.
  double log_deviation() const;
  // Largest share of the device time; what the device waits for launches counts as one.
  const char* largest_share(std::int64_t waiting) const;
};

inline void take(const StepSummary& summary, const PaddedStep& padded, StepBreakdown& b) {
  b.timing = summary.timing;
  b.device_ns = summary.device_ns;
  b.host_ns = summary.host_ns;
  b.step_ns = summary.step_ns;
  b.low_ns = summary.low_ns;
  b.high_ns = summary.high_ns;
  b.bound = summary.bound;
  b.graph_mode = to_string(padded.mode);
  b.padded_tokens = padded.tokens;
}

}  // namespace orrery
