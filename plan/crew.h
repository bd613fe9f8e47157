// Who does the work of a search. A search is batches of independent pieces of work whose results go through
// the store, and everything else follows from those: so whoever has a batch's results, from wherever, goes on
// as if it had made them, and the answer does not depend on who did what.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "plan/store.h"

namespace orrery {

// One piece of a batch, by its number: looks its results up in the store, and makes and keeps those that are
// not there. Called again with its results in the store it only takes them.
using PlanWork = std::function<Status(std::size_t)>;

class PlanCrew {
 public:
  virtual ~PlanCrew() = default;
  // Before the first batch. `runs_here`: simulations that this process has made so far.
  virtual Status join(PlanStore& store, std::function<std::uint64_t()> runs_here) = 0;
  // Returns when the results of all pieces are here; or with the first error.
  virtual Status batch(std::size_t count, int threads, const PlanWork& work) = 0;
  virtual bool may_run() const { return true; }               // asked before each simulation
  virtual std::uint64_t runs_elsewhere() const { return 0; }  // simulations that others made for it
};

// A batch by the crew, or by threads of this process where there is none.
Status run_batch(PlanCrew* crew, std::size_t count, int threads, const PlanWork& work);

// Its share of every batch: pieces `index`, `index + of`, …; none where `of` is 0, which is how shards are
// merged. A batch of which results are missing ends the search with an error; `missing` says how many.
class ShardCrew : public PlanCrew {
 public:
  ShardCrew(std::uint64_t index, std::uint64_t of) : index_(index), of_(of) {}
  Status join(PlanStore&, std::function<std::uint64_t()>) override { return ok_status(); }
  Status batch(std::size_t count, int threads, const PlanWork& work) override;
  bool may_run() const override { return may_run_; }

  std::uint64_t batches() const { return batches_; }  // that were begun
  std::uint64_t missing() const { return missing_; }  // pieces of the last one; 0: nothing is missing
  std::uint64_t pieces() const { return pieces_; }    // of the last one

 private:
  std::uint64_t index_, of_;
  std::uint64_t batches_ = 0, missing_ = 0, pieces_ = 0;
  std::atomic<bool> may_run_ = true;
};

}  // namespace orrery
