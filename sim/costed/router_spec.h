// `router:` of a pool: a policy's name, or a map with its keys (docs/routers.md).
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "base/yaml_reader.h"
#include "sim/policies.h"
#include "sim/router_group.h"

namespace orrery {

class StepPricer;
struct PoolSpec;

struct RouterSpec {
  enum class Speed { alike, price, stated };

  std::string policy = "least-loaded";
  SimDuration period, delay;  // of what it is told
  SimDuration batch;          // shortest-prompt-first
  double overlap_weight = 1;
  bool load_in_blocks = true;
  Speed speed = Speed::alike;
  std::vector<std::pair<std::string, double>> speeds;  // stated: by pool, requests in one and the same time

  friend bool operator==(const RouterSpec&, const RouterSpec&) = default;
  Telemetry telemetry() const { return {.period = period, .delay = delay}; }
  bool gathers_batches() const { return policy == "shortest-prompt-first"; }
};

RouterSpec read_router(const Yaml& node);

// What a router and the pools behind it must agree on; problems at the keys. `nodes`: one for each pool.
void check_routers(const std::vector<Yaml>& nodes, const std::vector<const PoolSpec*>& pools);

// What the router of these pools (of one role, in order) knows in advance. With Speed::price what a request
// of 1,024 tokens in and 128 out takes there: its prompt in a step of its own (but for decode pools), its
// tokens as a 64th of steps of 64 sequences (but for prefill pools).
struct PricedPool {
  const PoolSpec* spec = nullptr;
  const StepPricer* pricer = nullptr;
};
RouterConfig router_config(const RouterSpec& router, const std::vector<PricedPool>& pools);

}  // namespace orrery
