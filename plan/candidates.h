// Every combination of a space as a scenario, or the reason why it is none.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/yaml_cache.h"
#include "costmodel/kernel_set_cache.h"
#include "costmodel/price_table.h"
#include "plan/space.h"
#include "sim/costed/scenario.h"
#include "workloads/request_source.h"

namespace orrery {

enum class RejectedBy {
  nothing,
  configuration,  // the engine, its kernels or the plan do not allow it
  memory,         // it does not fit
  owned,          // more GPUs than there are
  bound,          // not even a lone request would meet the SLO; or others are better than it can be
};
const char* to_string(RejectedBy stage);

struct Candidate {
  std::uint64_t index = 0;  // among all combinations, in the order of the file
  std::string shape;        // its name; empty where there is one only
  std::vector<std::pair<std::string, std::string>> values;  // key below `deployment`, value as written
  std::size_t shape_number = 0;
  std::string document;                                  // the scenario; empty until it is read
  std::shared_ptr<const Scenario> scenario;              // null where it is none, or was not read
  std::vector<std::shared_ptr<const Scenario>> further;  // under the second workload, the third, …
  std::vector<std::string> further_keys;
  bool read = false;  // candidates that a bound rules out need not be
  std::string key;    // of its results: a digest of all its figures
  RejectedBy rejected = RejectedBy::nothing;
  std::string reason;
  std::vector<std::string> parts;  // names of its hardware, once it could be read
  const Scenario& under(std::size_t workload) const {
    return workload == 0 ? *scenario : *further[workload - 1];
  }
  const std::string& key_under(std::size_t workload) const {
    return workload == 0 ? key : further_keys[workload - 1];
  }
  std::string label() const;  // "colocated: hardware h200, parallel.tp 2"
};

struct CandidateList {
  std::vector<Candidate> all;
  std::size_t feasible() const;     // that are scenarios
  std::size_t in_question() const;  // that nothing has ruled out
};

using SharedRequests = std::shared_ptr<const std::vector<TraceRequest>>;
using WorkloadRequests = std::vector<SharedRequests>;  // by workload

// In the order of the file, the last key of a shape varying fastest; none is read.
CandidateList combinations(const PlanSpace& space);

// All of them read, whatever the number of threads. The workload is read once, into `requests`. Errors: the
// workload's; what is wrong with every candidate and so with the document; parts of `owned` and `prices` that
// nobody knows.
Result<CandidateList> list_candidates(const PlanSpace& space, int threads, SharedRequests& requests,
                                      const std::function<bool()>& keep_going = {});

// Reads candidates when they are asked for. Errors are those of list_candidates, over what was read.
class CandidateReader {
 public:
  // `bounds`: whether what no schedule can reach rejects.
  CandidateReader(const PlanSpace& space, CandidateList& list, int threads, std::function<bool()> keep_going,
                  bool bounds = true);
  ~CandidateReader();
  // As documents and scenarios; what is none keeps its reason.
  Status read(const std::vector<std::size_t>& which);
  Status check() const;                 // after the first reading: what is wrong with all that were read
  Result<WorkloadRequests> requests();  // of the first that is a scenario; empty where there is none
  // With their keys, or why they are none after all; read() before.
  Status look_closer(const std::vector<std::size_t>& which);
  PriceTableShelf& tables() { return tables_; }

 private:
  const PlanSpace& space_;
  CandidateList& list_;
  int threads_;
  std::function<bool()> keep_going_;
  bool bounds_;
  std::vector<std::optional<Errors>> outside_;  // of `deployment`, by candidate
  WorkloadRequests requests_;
  PriceTableShelf tables_;
  KernelSetCache once_;
  YamlCache profiles_;
};

void reject(Candidate& candidate, RejectedBy stage, std::string reason);

// Why no other number of instances can be run than the scenario's; "" where any can. `fewer`: of fewer ones,
// for which a topology has room.
std::string instances_fixed(const Scenario& scenario, bool fewer = false);
// The candidate with so many instances, where instances_fixed says nothing.
Scenario with_replicas(const Scenario& scenario, std::int64_t replicas);
double usd_per_hour(const PlanSpace& space, const Scenario& scenario);  // 0: a part has no price

}  // namespace orrery
