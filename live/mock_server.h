// An OpenAI-compatible server without a model: what it says is nothing, when it says it is what the
// simulation of a scenario predicts, in real time.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "sim/costed/scenario.h"
#include "sim/results.h"

namespace orrery {

struct MockServerOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = 0;                 // 0: any that is free
  std::string tape, version;              // records the run; empty: no tape
  std::uint32_t unread_limit = 4u << 20;  // bytes that a client may leave unread before it is cut off
  std::size_t most_connections = 10'000;  // at once; further ones are closed again
  // Called once it listens, and now and then whether it should stop.
  std::function<void(std::uint16_t port)> on_listening = {};
  std::function<bool()> stop = {};
};

struct MockServerReport {
  RunResult run;
  std::uint64_t connections = 0, bad_requests = 0;
  // Of clients: gone before their answer was complete, and cut off because they did not read it.
  std::uint64_t gone = 0, slow = 0, refused_connections = 0;
  // How late the host was: for what the loop waited for, and for tokens behind their time.
  Distribution loop_lateness, token_lateness;
};

// Returns when `stop` says so and all that was begun is over; from then on the simulation waits for no time.
// Errors: the address cannot be taken (unavailable), and what a simulation may end with.
Result<MockServerReport> serve_scenario(const Scenario& scenario, const MockServerOptions& options);

}  // namespace orrery
