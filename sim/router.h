// Chooses the instance for a request, by what it knows of them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/time.h"
#include "sim/cache_events.h"
#include "sim/request.h"

namespace orrery {

// What a router is told of an instance while it runs: at the moment of routing, or as of the last telemetry
// (sim/router_group.h).
struct InstanceView {
  std::int32_t outstanding = 0;  // requests routed there and not finished
  bool open = true;              // may be chosen; every router passes over those that may not
};

// What a router knows of an instance in advance. Instances that differ in none of it need none.
struct RoutedInstance {
  std::int64_t weight = 1;         // time that one and the same request takes there, in any unit
  std::int64_t kv_tokens = 0;      // that its KV cache holds
  std::int64_t max_sequences = 0;  // that its engine runs at once
  std::int32_t block_size = 1;     // tokens; how finely its cache is shared
};

struct RouterConfig {
  double overlap_weight = 1;   // kv-aware
  bool load_in_blocks = true;  // kv-aware: KV blocks of running prompts; else outstanding requests
  std::vector<RoutedInstance> instances = {};  // by number in the group; empty: all alike
};

// What happens to requests where they were sent. Every request that was routed is over once.
class AnswerEvents {
 public:
  virtual ~AnswerEvents() = default;
  virtual void first_token(RequestId request) = 0;
  virtual void over(RequestId request, std::int32_t output_tokens) = 0;
};

class Router {
 public:
  virtual ~Router() = default;
  // Precondition: some instance is open.
  virtual InstanceId choose(const Request& request, std::span<const InstanceView> instances) = 0;

  // What it wants to hear of beyond views: answers as they pass it, never late; contents of caches as of
  // telemetry.
  virtual bool watches_answers() const { return false; }
  virtual bool watches_caches() const { return false; }
  virtual bool watches_steps() const { return false; }  // each by itself: then none are run as a stretch
  virtual void first_token(RequestId, std::size_t /* instance */) {}
  virtual void over(RequestId, std::size_t /* instance */, std::int32_t /* output_tokens */) {}
  virtual void cache_lost(std::size_t /* instance */) {}  // its engine begins anew, with nothing cached
  virtual void cache_holds(std::size_t /* instance */, const Reach&) {}
};

// Keys that a policy takes beside its name (docs/routers.md); whoever gives it another is told so.
struct RouterKeys {
  bool telemetry = false, speed = false, overlap = false, batch = false;
};

struct RouterPolicy {
  const char* name;
  const char* description;
  std::unique_ptr<Router> (*factory)(const RouterConfig& config);
  RouterKeys keys = {};
  std::unique_ptr<Router> make(const RouterConfig& config = {}) const { return factory(config); }
};
struct SchedulerPolicy;

}  // namespace orrery
