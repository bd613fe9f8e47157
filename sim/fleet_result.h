// What a run says of instances that came and went. Off in runs whose instances all stay.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/time.h"

namespace orrery {

enum class InstanceState : std::uint8_t {
  up,
  draining,  // finishes what it has, and takes nothing new
  failed,    // its hardware is broken
  starting,  // loads weights and warms up
  off,       // not needed: nobody pays for it
};
const char* to_string(InstanceState state);

struct FleetResult {
  struct Stay {  // of an instance in a state other than up
    InstanceId instance;
    InstanceState state = InstanceState::failed;
    SimTime begin, end;
  };
  struct Scaling {
    SimTime at;
    std::string pool;
    std::int64_t from = 0, to = 0;  // instances that are up or starting
  };
  bool on = false;
  std::uint64_t faults = 0;          // that began: failures and degradations
  std::uint64_t instances_lost = 0;  // by failures
  std::uint64_t restarts = 0, updated = 0;
  // Requests: how often one lost its instance, was sent again, and was failed for want of tries or of
  // instances. Tokens of the lost ones: of prompts that had been computed, of answers that had been sent; a
  // retry computes both again, and the client is told of neither twice.
  std::uint64_t requests_lost = 0, retries = 0, requests_failed = 0;
  std::uint64_t transfers_lost = 0;  // KV transfers that ended without their bytes
  std::uint64_t lost_prompt_tokens = 0, lost_output_tokens = 0;
  // From measured_from to last_finish: time up (draining included) ÷ time not off, over instances.
  double availability = 1;
  double instance_up_s = 0, gpu_hours = 0;  // GPU-hours: all states but off
  std::vector<Stay> stays;                  // by begin, then instance
  std::vector<Scaling> scalings;
};

}  // namespace orrery
