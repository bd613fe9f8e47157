// The search: candidates are run on a growing part of the workload, the worse half leaves each time, and the
// last few run on all of it with error bars (docs/planner.md).
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "plan/candidates.h"
#include "plan/crew.h"
#include "plan/objective.h"
#include "plan/store.h"
#include "sim/ensemble/ensemble.h"

namespace orrery {

struct PlanEntry {
  std::size_t candidate = 0;   // in CandidateList::all
  std::uint64_t requests = 0;  // over how many its score is
  PlanScore score;
};

// With the same draws for all of them: draw k scales the prices of an operator class alike everywhere.
struct Finalist {
  PlanEntry entry;
  std::vector<PlanScore> draws;
  Intervals intervals;                       // as in `simulate`, corrected where published figures say how
  std::vector<Intervals> further_intervals;  // under the second workload, the third, …
  double best_probability = 0;               // share of the draws in which it is the best
  double meets_probability = 0;
  double regret = 0;     // mean over draws in which it meets the SLO of its objective − the best one's
  double shortfall = 0;  // mean over the draws of the attainment that it lacks to the best one, points
};

// Of one finalist under one case of `search.what_if`.
struct WhatIfPlan {
  std::size_t candidate = 0;
  PlanScore score = {};     // with the instances that it was chosen with, less those that are lost
  std::int64_t needs = 0;   // instances that meet the SLO then; lost ones: of which so many may be lost; 0:
                            // not asked, or none that are allowed
  PlanScore sized = {};     // with those, where they are more than it has (no loss)
  std::string cannot = {};  // why the case says nothing of it
  const PlanScore& decides() const { return sized.replicas > score.replicas ? sized : score; }
};
struct WhatIfCase {
  std::string name;
  std::vector<WhatIfPlan> plans;  // of the first finalists, in their order
  std::size_t best = 0;           // of them; 0 = the choice stays
  std::string cannot;
};
// The choice at other rates, or with other instances.
struct CurvePoint {
  std::string curve;  // "rate", "instances"
  double rate_factor = 1, offered_per_s = 0;
  std::int64_t replicas = 1;
  PlanScore score = {};
  std::string cannot = {};  // why there is none
};
struct Sensitivity {
  std::vector<WhatIfCase> cases;
  std::vector<CurvePoint> curve;
};
// What is uncertain, and how the distance between the first two finalists goes with it.
struct DoubtSource {
  std::string name;     // operator class, or "host"
  std::string measure;  // for `orrery calibrate --ops`; empty: what runs live says it
  double correlation = 0;
};

// What trying each candidate on the whole workload would have taken, and what was left out of it.
struct PlanSavings {
  std::uint64_t graphs = 0;      // step graphs, that bounds were made of
  std::uint64_t unread = 0;      // candidates that a bound ruled out before they were read
  std::uint64_t by_bounds = 0;   // in all that others are better than they can be
  std::uint64_t by_racing = 0;   // that left on a part of the workload
  std::uint64_t to_the_end = 0;  // that were run on all of it
  std::uint64_t simulated = 0;   // requests, in all runs
};

struct PlanSearch {
  CandidateList candidates;
  std::uint64_t requests = 0;          // of the workload, or of all together
  std::vector<PlanEntry> left;         // who left early, in the order of leaving (best of a round last)
  std::vector<Finalist> finalists;     // best first
  std::uint64_t runs = 0, reused = 0;  // simulations made, and answers found in the store
  PlanSavings saved;
  Sensitivity around;
  std::vector<DoubtSource> doubts;  // the largest correlation first
};

struct SearchOptions {
  int threads = 1;
  std::string version;  // part of the store's identity
  std::string store;    // path; empty: nothing is kept
  StoreStart start = StoreStart::anew;
  std::vector<std::string> others = {};  // stores whose results are taken over first
  PlanCrew* crew = nullptr;              // who does the work; null: the threads of this process
  std::function<void(std::uint64_t done, std::uint64_t of, const char* what)> progress = {};
  std::function<bool()> keep_going = {};  // false ends the search with ErrorKind::interrupted
  bool exhaustive = false;  // every candidate on the whole workload: what a search is compared with
};

// Bounds alone, nothing is simulated.
struct BoundsOnly {
  std::uint64_t candidates = 0, rejected = 0, bounded = 0, graphs = 0;
  double best = 0, worst = 0;  // of the objective's bounds, as PlanScore::objective
  double seconds = 0;          // of processor time, for all bounds once their graphs were read
};
Result<BoundsOnly> bound_plans(const PlanSpace& space, const SearchOptions& options);

// The same for any number of threads, and whatever part of the work a store had already.
Result<PlanSearch> search_plans(const PlanSpace& space, const SearchOptions& options);

}  // namespace orrery
