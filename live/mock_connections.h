// The sockets of the mock server: one thread, any number of connections. It hands requests in, and is told by
// the simulation's thread what to send when.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "base/result.h"
#include "live/mock_server.h"
#include "live/openai_api.h"
#include "live/server_metrics.h"
#include "live/socket_inbox.h"
#include "live/token_witness.h"
#include "live/wall_clock.h"

namespace orrery {

class MockConnections final : public TokenListener {
 public:
  struct Config {
    ApiLimits limits;
    WallClock* clock = nullptr;
    SocketInbox* inbox = nullptr;
    ServerMetrics metrics;
    std::int64_t kv_blocks = 0;  // usable by an instance
  };
  MockConnections(const MockServerOptions& options, Config config);
  ~MockConnections() override;
  Result<std::uint16_t> listen();         // and begins to serve
  void finish(MockServerReport& report);  // waits for the thread; the run is over

  // From the simulation's thread.
  void on_first_token(RequestId request, SimTime at) override;
  void on_tokens(RequestId request, std::int32_t count, SimTime at) override;
  void on_end(RequestId request, std::int32_t tokens, SimTime at) override;
  void on_levels(const StepRecord& step) override;
  void on_preempted() override;
  void on_admitted(std::int64_t cached_tokens) override;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery
