// A space before anything of it is run: one candidate or two of every step graph are read, and what bounds
// say of them holds for all that differ from them in budgets only.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "plan/candidates.h"
#include "plan/graph_bound.h"
#include "plan/search.h"

namespace orrery {

class BoundedSpace {
 public:
  BoundedSpace(const PlanSpace& space, const SearchOptions& options);
  // Errors: those of CandidateReader, and interrupted.
  Status make();

  CandidateList& list() { return list_; }
  CandidateReader& reader() { return reader_; }
  const WorkloadRequests& requests() const { return requests_; }  // empty: nothing could be read
  const ObjectiveBound& bound(std::size_t candidate) const { return bounds_[candidate]; }
  std::vector<std::size_t> by_bound() const;  // who is in question, the best bound first
  std::uint64_t graphs() const { return graphs_.size(); }
  double bounding_s() const { return bounding_s_; }  // processor time of the bounds, graphs apart

 private:
  struct Graph {
    std::vector<std::size_t> members;
    std::vector<GraphBound> bounds;  // by workload; empty: none is known
    std::string beyond;              // why no member meets the SLO
  };
  Status read_graphs();
  Status bound_graphs();
  void bound_candidates();

  const PlanSpace& space_;
  const SearchOptions& options_;
  CandidateList list_;
  CandidateReader reader_;
  WorkloadRequests requests_;
  std::vector<LoadFacts> loads_;
  std::vector<Graph> graphs_;
  std::vector<ObjectiveBound> bounds_;
  double bounding_s_ = 0;
};

}  // namespace orrery
