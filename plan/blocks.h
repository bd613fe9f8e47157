// A run by blocks of requests: what two candidates are compared on in pairs, for block b holds the same
// requests in both.
#pragma once

#include <cstdint>
#include <vector>

#include "sim/collector.h"
#include "sim/results.h"

namespace orrery {

constexpr std::size_t block_count = 16;

// Of consecutive requests that are measured.
struct RequestBlock {
  double requests = 0, met = 0, answered = 0, tokens = 0;
  double e2e_ms = 0;  // sum over the answered ones
  double met_tokens = 0;
  double busy_s = 0;  // by how much it moved the end of all that were answered
};
using RequestBlocks = std::vector<RequestBlock>;

// Fills blocks from a run's records, and says when so many have missed the SLO that it cannot be met.
class BlockSink final : public RecordSink {
 public:
  // `measured`: how many requests the run measures. `stop_below`: the attainment that is asked for; 0: never.
  BlockSink(const Slo& slo, SimDuration warmup, std::uint64_t measured, double stop_below)
      : slo_(slo), warmup_(warmup), measured_(measured), stop_below_(stop_below), blocks_(block_count) {}
  void on_request(const RequestRecord& record) override;
  bool hopeless() const;
  // Of a run that was stopped, who was not seen does as those did that were.
  RequestBlocks blocks() const;
  double most_attainment() const;

 private:
  Slo slo_;
  SimDuration warmup_;
  std::uint64_t measured_;
  double stop_below_;
  RequestBlocks blocks_;
  std::uint64_t seen_ = 0, missed_ = 0;
  bool any_ = false;
  SimTime from_, last_;
};

}  // namespace orrery
