// How experts are asked for and placed, as a deployment says it (interfaces §3, `deployment.experts`;
// docs/experts.md).
#pragma once

#include <cstdint>
#include <string>

#include "base/yaml_reader.h"
#include "costmodel/experts/balancer.h"
#include "costmodel/experts/popularity.h"

namespace orrery {

struct ModelSpec;
struct ParallelPlan;

struct BalancingSpec {
  enum class Policy : std::uint8_t { off, fixed, periodic, threshold };
  Policy policy = Policy::off;
  std::int32_t redundant = 0;     // experts of a layer beyond one of each
  std::int64_t every_steps = 0;   // between rebalancings, or looks at the threshold
  std::int64_t first_steps = 0;   // before the first
  std::int64_t window_steps = 0;  // of the statistics: the last ones before a rebalancing
  double threshold = 1;           // rebalance only when the window's balancedness is below
  bool overlapped = false;        // weights move while steps run; else steps wait
  std::int32_t groups = 1, nodes = 1;
  bool moves() const { return policy == Policy::periodic || policy == Policy::threshold; }
};
const char* to_string(BalancingSpec::Policy policy);  // off | static | periodic | threshold

struct ExpertSpec {
  PopularitySpec popularity;
  bool sampled = false;  // loads of each step are drawn; else their expectation
  BalancingSpec eplb;
  std::int32_t layers = 0;  // of the model with experts; of one pipeline stage, the first of which has this
                            // number among those of all stages
  std::int32_t first_layer = 0, all_layers = 0;
  std::uint64_t seed = 1;   // the scenario's
  double expert_bytes = 0;  // of one expert of one layer
  bool clumped = false;     // ranks share experts out of groups that a router chooses first
  // Whether anything departs from the expectation over uniform popularity, which costs nothing.
  bool on() const {
    return !popularity.uniform() || sampled || clumped || eplb.policy != BalancingSpec::Policy::off;
  }
  // Whether loads change from step to step.
  bool moves() const { return sampled || popularity.every_s > 0 || eplb.moves(); }
};

// `node` may be absent. Errors: a model without experts; widths that do not divide; eplb without expert
// parallelism; a file of other layers or experts than the model's; policies that `engine` does not have.
ExpertSpec read_experts(const Yaml& node, const ModelSpec& model, const ParallelPlan& plan,
                        const std::string& engine, const std::string& folder);

// As a run begins: the engine's order, or a `static` one from the popularity of the first instant.
ExpertPlacement first_placement(const ExpertSpec& spec, const ExpertPopularity& popularity,
                                std::int32_t ranks, std::int32_t layer);

}  // namespace orrery
