// Inside plan/ only: runs of candidates, each made once and remembered.
#pragma once

#include <atomic>
#include <cstdint>
#include <string>

#include "plan/objective.h"
#include "plan/search.h"

namespace orrery {

class PlanRunner {
 public:
  PlanRunner(const PlanSpace& space, const SearchOptions& options, PlanStore& store)
      : space_(&space), options_(&options), store_(&store) {}

  // One run over the first `requests` requests. What turns out only when it runs (a link that the part has no
  // figure of) is no error: `refused` of the score says so.
  Result<PlanScore> run(const Candidate& candidate, std::int64_t replicas, std::uint64_t requests);
  // With as many instances as the space says: those of the candidate, or as few as meet the SLO (doubling
  // from `guess`, then bisection; the most that are allowed, or owned, where none does).
  Result<PlanScore> fewest(const Candidate& candidate, std::int64_t guess, std::uint64_t requests);
  // Perturbed runs over all requests, and intervals.
  Status estimate(const Candidate& candidate, Finalist& finalist);

  std::uint64_t runs() const { return runs_; }

 private:
  std::int64_t most_replicas(const Candidate& candidate) const;
  bool stopped() const {
    return (options_->keep_going && !options_->keep_going()) ||
           (options_->crew != nullptr && !options_->crew->may_run());
  }

  const PlanSpace* space_;
  const SearchOptions* options_;
  PlanStore* store_;
  std::atomic<std::uint64_t> runs_{0};
};

// What the store keeps of a score; the same score comes back.
std::string score_text(const PlanScore& score);
Result<PlanScore> parse_score(const std::string& text);

}  // namespace orrery
