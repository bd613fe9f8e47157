// What `orrery plan` searches: SPACE.yaml is a scenario with one more key, `search` (docs/planner.md).
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"

namespace orrery {

// One key that is varied, by its path below `deployment`, and its values as YAML.
struct PlanAxis {
  std::string key;
  std::vector<std::string> values;
  SourceLocation where;
};

// A deployment of its own (one pool, prefill and decode apart, …) and what is varied of it.
struct PlanShape {
  std::string name;
  std::string deployment;  // YAML in one line; empty: the document's own
  std::vector<PlanAxis> axes;
  std::uint64_t combinations() const;  // capped at 2^40
};

// One of several workloads that every deployment is run under.
struct PlanWorkload {
  std::string name;
  double weight = 1;
  std::string workload, slo;  // YAML in one line; `slo` empty: the document's own
  bool has_slo = false, closed_loop = false;
};
// What the objective is over them: a mean by weight, or that of the worst.
enum class OverWorkloads { mean, worst };

enum class PlanObjective {
  gpus,        // fewest GPUs that meet the SLO
  cost,        // fewest USD per million output tokens
  throughput,  // most output tokens per second and GPU
  latency,     // shortest mean end-to-end latency
  goodput,     // most requests per second and GPU that meet every limit
  rate,        // highest request rate per GPU at which the SLO is met
  energy,      // fewest joules of GPU boards per output token
};
const char* to_string(PlanObjective objective);

// What the choice is looked at under beside the workload as it is.
struct WhatIfAxes {
  std::vector<double> traffic, prompts;  // times as fast, times as long
  std::vector<double> hit_rate;          // share of the prefix hits that stays
  std::vector<std::string> lost;         // "instance", "node"
};
struct CurveAxes {
  std::vector<double> rates;
  std::vector<std::int64_t> instances;
};

struct PlanSpace {
  std::string file;
  std::string document;  // YAML without `search`, after --set
  std::vector<PlanShape> shapes;
  PlanObjective objective = PlanObjective::gpus;
  std::vector<std::pair<std::string, std::int64_t>> owned;  // GPUs by part; empty: any number of any part
  std::vector<std::pair<std::string, double>> prices;       // USD per GPU and hour, by part
  std::int64_t most_replicas = 0;  // above 0: each plan gets as few replicas as meet the SLO, at most so many
  std::int64_t finalists = 8;      // that get error bars
  std::int64_t draws = 16;         // perturbed runs of each finalist
  std::vector<PlanWorkload> workloads;  // empty: the document's own
  OverWorkloads over = OverWorkloads::mean;
  double growth = 1, peak = 1;  // the workload is played so many times as fast, times the other
  WhatIfAxes what_if;
  CurveAxes curves;

  std::uint64_t candidates() const;
  std::size_t workload_count() const { return workloads.empty() ? 1 : workloads.size(); }
  double price_of(const std::string& part) const;  // 0: not given
};

inline constexpr std::uint64_t most_candidates = 200'000;  // about half a kilobyte each
inline constexpr std::uint64_t most_read = 20'000;         // that no bound rules out; about 80 kB each

struct SpaceOptions {
  std::vector<std::string> overrides;  // --set; `search.…` as well
  std::string trace;                   // --trace
  std::int64_t seed = -1;
};

// All problems of `search` at once. What stands under `deployment`, `workload` and `slo` is read with each
// candidate.
Result<PlanSpace> load_space(const std::string& path, const SpaceOptions& options = {});

}  // namespace orrery
