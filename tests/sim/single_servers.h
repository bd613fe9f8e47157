// Instances that are single servers of queueing theory: one request at a time, whose service is its prompt at
// a fixed time per token. The real loop, scheduler and router stand in front.
#pragma once

#include <cstdio>
#include <memory>
#include <vector>

#include "world.h"

namespace orrery::single_server {

constexpr std::int64_t ns_per_token = 1000;

// A step at a time and no host: a step takes as long as its tokens say.
class TokenTimeExecutor final : public Executor {
 public:
  explicit TokenTimeExecutor(std::vector<std::int64_t> ns) : ns_(std::move(ns)), open_(ns_.size()) {}
  void submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) override {
    const std::size_t i = instance.value();
    open_[i] = {.busy = true, .step = step, .end = {now + SimDuration(plan.tokens() * ns_[i])}};
  }
  void cut(InstanceId, SimTime) override {}
  void ended(InstanceId, SequenceId) override {}
  SimTime next_event() const override {
    SimTime next = SimTime::never();
    for (const Open& o : open_)
      if (o.busy) next = earlier(next, o.end[0]);
    return next;
  }
  void collect(SimTime now, Outcomes& outcomes) override {
    for (std::size_t i = 0; i < open_.size(); ++i) {
      Open& o = open_[i];
      if (!o.busy || o.end[0] > now) continue;
      o.busy = false;
      StepOutcome outcome;
      outcome.instance = InstanceId(static_cast<std::uint32_t>(i));
      outcome.first = o.step;
      outcome.scheduled = 1;
      outcome.updates = o.end;
      outcome.at = o.end[0];
      outcomes.steps.push_back(outcome);
    }
  }
  std::int32_t depth(InstanceId) const override { return 1; }
  SimDuration output_delay(InstanceId) const override { return {}; }
  SimDuration output_per_sequence(InstanceId) const override { return {}; }

 private:
  struct Open {
    bool busy = false;
    StepId step;
    std::vector<SimTime> end;
  };
  std::vector<std::int64_t> ns_;  // per token, by instance
  std::vector<Open> open_;
};

struct Setup {
  std::vector<std::int64_t> ns_per_token = {single_server::ns_per_token};  // by instance
  Router* router = nullptr;
  Telemetry telemetry = {};
  std::optional<SimDuration> batch = {};
};

// Records in order of request.
inline std::vector<RequestRecord> run(const Setup& s, const std::vector<TraceRequest>& requests) {
  OutputLengths oracle;
  TraceInbox inbox(std::make_unique<world::Requests>(requests), SimDuration(0), 0, oracle);
  TokenTimeExecutor executor(s.ns_per_token);
  VirtualClock clock;
  world::Records records;
  SimulationSetup setup;
  setup.clock = &clock;
  setup.executor = &executor;
  setup.inbox = &inbox;
  setup.sink = &records;
  PoolSetup pool;
  pool.instances = s.ns_per_token.size();
  pool.router = s.router;
  pool.telemetry = s.telemetry;
  pool.batch = s.batch;
  setup.pools.push_back(pool);
  const SchedulerConfig config{.max_num_batched_tokens = 1 << 20,
                               .max_num_seqs = 1,
                               .max_model_len = 1 << 20,
                               .num_gpu_blocks = 1 << 17,
                               .block_size = 16,
                               .steps_in_flight = 1};
  for (std::size_t i = 0; i < pool.instances; ++i)
    setup.schedulers.push_back(make_instance_scheduler(*find_scheduler("vllm-v1"), config, 1));
  auto run = run_simulation(std::move(setup));
  if (!run.ok()) {
    for (const Error& error : run.errors()) std::fprintf(stderr, "%s\n", error.message.c_str());
  }
  (void)std::move(run).value();
  std::sort(records.all.begin(), records.all.end(),
            [](const RequestRecord& a, const RequestRecord& b) { return a.request < b.request; });
  return records.all;
}

// Poisson arrivals; services constant or exponential, of 1,000 tokens in the mean.
inline std::vector<TraceRequest> poisson(std::size_t count, double rate, bool exponential,
                                         std::uint64_t seed = 1) {
  RandomStream arrivals(seed, RandomPurpose::property_test, 21),
      services(seed, RandomPurpose::property_test, 22);
  std::vector<TraceRequest> all;
  double at = 0;
  for (std::size_t i = 0; i < count; ++i) {
    at += arrivals.exponential(1 / rate);
    const double tokens = exponential ? services.exponential(1000) : 1000;
    all.push_back(
        world::request(i, at, std::max<std::int32_t>(1, static_cast<std::int32_t>(tokens + 0.5)), 1));
  }
  return all;
}

inline double mean_wait_s(const std::vector<RequestRecord>& records) {
  double sum = 0;
  for (const RequestRecord& r : records) sum += r.queue.seconds();
  return sum / static_cast<double>(records.size());
}

}  // namespace orrery::single_server
