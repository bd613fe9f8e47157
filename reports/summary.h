// summary.json (interfaces §5) and the same as text for a terminal.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/json.h"
#include "sim/ensemble/ensemble.h"
#include "sim/ensemble/find_rate.h"
#include "sim/results.h"

namespace orrery {

struct SummaryInput {
  const RunResult* run = nullptr;
  const Intervals* intervals = nullptr;     // null: not computed
  const RateSearch* rate_search = nullptr;  // null: not asked for
  std::int64_t gpus = 1;
  double usd_per_gpu_hour = 0;                             // 0 = the user gave no price
  std::vector<std::pair<std::string, double>> provenance;  // share of predicted device time by rung
  bool what_if = false;
  double slo_percentile = 99;
  std::string speculation;  // method; empty = off
  std::int64_t speculation_tokens = 0;
  struct DraftTreeSummary {
    std::int64_t branches = 0, verified = 0;  // 0 = a chain
    double expected_accepted = 0;             // by the chances of its nodes
    bool assumed = false;                     // those of further candidates
  } speculation_tree;
  std::uint64_t seed = 1;
  std::string version;
  double wall_s = 0, peak_rss_mb = 0;
  Json energy = nullptr;    // what the GPUs drew, where it was asked for
  std::string energy_text;  // the same as a line
};

Json summary_json(const SummaryInput& input);
// Which doubts the intervals hold.
std::string doubts_of(const Intervals& intervals);
std::string summary_text(const SummaryInput& input, const std::string& title);

}  // namespace orrery
