#include "live/mock_server.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "live/mock_connections.h"
#include "live/tape.h"
#include "sim/simulation.h"

namespace orrery {

namespace {

// Of every pool whose instances answer clients.
std::size_t engines_of(const Scenario& scenario) {
  std::size_t engines = 0;
  for (const PoolSpec* pool : scenario.pools()) engines += static_cast<std::size_t>(pool->engines());
  return engines;
}

// The loop's view of an inbox that outlives the run: sockets may still hold it then.
class BorrowedInbox final : public Inbox {
 public:
  explicit BorrowedInbox(SocketInbox& inbox) : inbox_(inbox) {}
  SimTime next() const override { return inbox_.next(); }
  void poll(SimTime now, Arrivals& arrivals) override { inbox_.poll(now, arrivals); }
  void poll_departures(SimTime now, std::vector<RequestId>& gone) override {
    inbox_.poll_departures(now, gone);
  }
  void on_finished(RequestId request, SimTime at) override { inbox_.on_finished(request, at); }

 private:
  SocketInbox& inbox_;
};

MockConnections::Config config_of(const Scenario& scenario, WallClock& clock, SocketInbox& inbox) {
  MockConnections::Config c;
  const PoolSpec& pool = scenario.pool;
  const SchedulerConfig scheduler = scenario.scheduler_config();
  c.limits.model = pool.instance.model.name;
  c.limits.block_size = std::max(1, static_cast<std::int32_t>(scheduler.block_size));
  c.limits.max_model_len = pool.instance.engine.settings.max_model_len;
  c.clock = &clock;
  c.inbox = &inbox;
  c.metrics.engines.resize(engines_of(scenario));
  c.metrics.block_size = scheduler.block_size;
  c.metrics.kv_blocks = c.kv_blocks = pool.memory.kv_blocks;
  return c;
}

}  // namespace

Result<MockServerReport> serve_scenario(const Scenario& scenario, const MockServerOptions& options) {
  std::optional<TapeRecorder> tape;
  if (!options.tape.empty()) {
    ORRERY_TRY(recorder, TapeRecorder::create(options.tape, scenario, options.version, "mock server", false));
    tape.emplace(std::move(recorder));
  }
  WallClock clock;
  SocketInbox inbox(clock);
  MockConnections sockets(options, config_of(scenario, clock, inbox));
  TokenWitness witness(sockets);
  Status listening = ok_status();
  RunOptions run;
  run.stretches = false;  // each token is sent when its step ends
  run.observer = &witness;
  run.sink = &witness;
  run.make_inbox = [&](SimDuration input_delay, OutputLengths&) {
    inbox.set_input_delay(input_delay);
    return std::make_unique<BorrowedInbox>(inbox);
  };
  run.arrange = [&](SimulationSetup& setup) {
    clock.restart();  // what came before was preparation
    setup.clock = &clock;
    witness.stand_before(setup.executor);
    setup.executor = &witness;
    if (tape) tape->arrange(setup);
    const Result<std::uint16_t> port = sockets.listen();
    if (port.ok() && options.on_listening) options.on_listening(*port);
    if (port.ok()) return;
    listening = port.errors();
    inbox.close();
  };
  auto result = run_scenario(scenario, run);
  MockServerReport report;
  inbox.close();  // after an error
  sockets.finish(report);
  if (!listening.ok()) return listening.errors();
  if (!result.ok()) return result.errors();
  report.run = std::move(result).value();
  report.loop_lateness = clock.lateness();
  if (tape) ORRERY_TRY_STATUS(tape->finish(report.run));
  return report;
}

}  // namespace orrery
