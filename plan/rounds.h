// Inside plan/ only: runs of candidates, each made once and remembered.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "costmodel/price_table.h"
#include "plan/load_change.h"
#include "plan/objective.h"
#include "plan/search.h"

namespace orrery {

class PlanRunner {
 public:
  // `tables`: of step prices, shared by all runs; outlives the runner.
  PlanRunner(const PlanSpace& space, const SearchOptions& options, PlanStore& store, PriceTableShelf& tables)
      : space_(&space), options_(&options), store_(&store), tables_(&tables) {}

  struct Question {
    std::int64_t replicas = 1;
    std::uint64_t requests = 0;  // the first so many; of several workloads: together, the same share of each
    double rate_factor = 1;
    const ChangedLoad* load = nullptr;  // instead of the workload
    bool may_stop = false;  // once it cannot meet the SLO any more: nobody asks how far it misses it
  };
  // One run, or with several workloads one of each. What turns out only when it runs (a link that the part
  // has no figure of) is no error: `refused` of the score says so.
  Result<PlanScore> run(const Candidate& candidate, const Question& question);
  struct Range {
    std::int64_t least = 1, most = INT64_MAX;  // instances that can be of use
  };
  // With as many instances as the space says: those of the candidate, or as few as meet the SLO: from `guess`
  // down or up in steps that double, then bisected between; the most that are of use, allowed or owned where
  // none meets it. For `rate` the highest rate (rate_search.h).
  Result<PlanScore> best(const Candidate& candidate, const PlanScore& guess, const Range& range,
                         std::uint64_t requests);
  // As few instances as meet the SLO under the other circumstances of `question`, from its own as a guess.
  Result<PlanScore> fewest(const Candidate& candidate, const Range& range, Question question);
  std::int64_t most_replicas(const Candidate& candidate) const;  // that are allowed and owned
  // Perturbed runs over all requests, and intervals.
  Status estimate(const Candidate& candidate, Finalist& finalist);

  std::uint64_t runs() const { return runs_; }
  std::uint64_t requests() const { return requests_; }  // simulated in all runs

 private:
  Result<PlanScore> run_under(const Candidate& candidate, std::size_t workload, const Question& question);
  Status estimate_under(const Candidate& candidate, std::size_t workload, const PlanScore& nominal,
                        std::vector<PlanScore>& draws, Intervals& intervals);
  Result<PlanScore> highest_rate(const Candidate& candidate, double guess, std::uint64_t requests);
  bool stopped() const {
    return (options_->keep_going && !options_->keep_going()) ||
           (options_->crew != nullptr && !options_->crew->may_run());
  }

  const PlanSpace* space_;
  const SearchOptions* options_;
  PlanStore* store_;
  PriceTableShelf* tables_;
  std::atomic<std::uint64_t> runs_{0}, requests_{0};
};

// What the store keeps of a score; the same score comes back.
std::string score_text(const PlanScore& score);
Result<PlanScore> parse_score(const std::string& text);

// Of the first `part` requests those that are measured; 0: arrivals of a closed loop are not the trace's.
std::uint64_t measured_requests(const std::vector<TraceRequest>& requests, const WorkloadSpec& workload,
                                std::uint64_t part, double rate_factor = 1);

}  // namespace orrery
