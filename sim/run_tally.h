// What schedulers leave behind in results, added up over instances and, where some were lost or restarted,
// over their lives.
#pragma once

#include <vector>

#include "base/digest.h"
#include "sim/instance.h"
#include "sim/results.h"
#include "sim/simulation.h"

namespace orrery {

class RunTally {
 public:
  explicit RunTally(const std::vector<PoolSetup>& pools);
  // An instance's life is over; `last`: with the run.
  void add(std::size_t instance, const Instance& of, bool last);
  // Adds everything to `result`, and the instances' digests, in order, to `digest`.
  void finish(RunResult& result, Digest& digest) const;

 private:
  struct Place {
    std::size_t pool = 0;
    std::vector<std::uint64_t> digests;  // one a life
    bool keeps_kv = false;
    double wraps = 0;
  };
  std::vector<Place> places_;
  RunResult sums_;
  std::uint64_t queried_ = 0, hit_ = 0;
};

}  // namespace orrery
