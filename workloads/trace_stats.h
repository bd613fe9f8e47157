// What a workload looks like, in one pass: how many requests, how bursty, how long, how much they share.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_set>

#include "base/json.h"
#include "base/result.h"
#include "workloads/request_source.h"

namespace orrery {

// Percentile p of n sorted values: index min(n − 1, ⌊p·n⌋), as everywhere in Orrery.
struct LengthSummary {
  double mean = 0;
  std::int32_t min = 0, p50 = 0, p90 = 0, p99 = 0, max = 0;
};

// Memory grows with the number of different lengths, prompt blocks and sessions, not with the number of
// requests.
class TraceStats {
 public:
  void add(const TraceRequest& request);

  std::uint64_t requests() const { return requests_; }
  double duration_s() const;  // first to last arrival
  double rate() const;        // gaps ÷ duration, requests per second; 0 when it has no duration
  double gap_cv() const;      // coefficient of variation of the gaps; 1 for a Poisson process, 0 when unknown
  LengthSummary input() const { return summary(inputs_); }
  LengthSummary output() const { return summary(outputs_); }
  std::uint64_t prompt_blocks() const { return blocks_; }
  // Share of the prompt blocks that an unlimited prefix cache would hold already: seen before, and so all
  // earlier blocks of the prompt. 0 without hash_ids.
  double shared_block_share() const;
  std::uint64_t sessions() const { return sessions_.size(); }

  Json to_json() const;
  std::string to_text(const std::string& title) const;

 private:
  using Histogram = std::map<std::int32_t, std::uint64_t>;
  LengthSummary summary(const Histogram& histogram) const;

  std::uint64_t requests_ = 0, blocks_ = 0, shared_blocks_ = 0;
  SimTime first_, last_;
  double gap_mean_ = 0, gap_squares_ = 0;  // Welford's running mean and sum of squared deviations, seconds
  Histogram inputs_, outputs_;
  std::unordered_set<std::uint64_t> seen_blocks_, sessions_;  // never iterated
};

}  // namespace orrery
