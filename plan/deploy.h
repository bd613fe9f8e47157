// Files that start a deployment on the engines themselves: commands, docker compose, Kubernetes, and the
// command that checks it (docs/planner.md, "Deploy files").
#pragma once

#include <string>
#include <vector>

#include "plan/launch_profile.h"
#include "sim/costed/scenario.h"

namespace orrery {

struct DeployFile {
  std::string name;
  std::string text;
  bool executable = false;
};

// A pool as its engine is started.
struct DeployPool {
  std::string name, role, image, vendor, model;  // model: a checkpoint's name; "" where nobody knows it
  std::int64_t replicas = 1, gpus = 1, nodes = 1;
  std::int64_t ranks_per_node = 1;  // of attention data parallelism
  std::string router;               // its policy
  Launch launch;
  std::vector<std::string> follower;  // words of an instance's nodes beyond the first
  bool by_hand = false;               // several nodes, which no file of a cluster starts
};

struct Deployment {
  std::vector<DeployPool> pools;
  std::optional<LaunchRouter> router;  // of prefill and decode pools
  std::vector<std::string> notes;      // what the files leave to the reader
  bool apart() const;                  // prefill and decode
  std::int64_t gpus() const;
};

// `document`: the scenario as YAML, with the instances that were chosen. Errors: none but of data files; what
// cannot be deployed is a note, and its pool is left out.
Result<Deployment> deployment_of(const Scenario& scenario, const std::string& document);

// serve-<pool>.sh, config-<pool>.yaml, router.sh, compose.yaml, kubernetes.yaml, check.sh and README.md.
// `scenario_path`: the scenario file as seen from the folder of these files.
std::vector<DeployFile> deploy_files(const Deployment& deployment, const std::string& scenario_path);

std::string yaml_text(const Json& value);  // block style; texts quoted

}  // namespace orrery
