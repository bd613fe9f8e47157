// `orrery plan --emit`: scripts that run a search's shards on a cluster's batch system.
#pragma once

#include <string>

#include "base/result.h"

namespace orrery {

struct EmitOptions {
  std::string kind;     // slurm | k8s
  std::string command;  // the search as a shell would take it, without --emit and --shards
  std::string out;      // --out of the search
  int shards = 8;
};

// Writes plan-slurm.sh, or plan-k8s.yaml and plan-k8s.sh, into `out`; returns what to do next.
Result<std::string> emit_scripts(const EmitOptions& options);

}  // namespace orrery
