// Prefill and decode apart on hand-made transports whose times are known, and what runs them.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "catch.h"
#include "sim/costed/pooled_executor.h"
#include "sim/kv_transport.h"
#include "world.h"

namespace apart {

using namespace orrery;

// Every pull takes the same time, whatever else is under way; what is sent takes its share of it, part after
// part. Requests in `fails` lose their first transfers: half of the time, then nothing.
class FixedTransport final : public KvTransport {
 public:
  explicit FixedTransport(SimDuration time) : time_(time) {}
  void begin(const KvPull& pull, SimTime now) override {
    pulls.push_back(pull);
    if (fails(pull.request)) return add({pull.request, now + SimDuration(time_.ns() / 2), true});
    add({pull.request, now + time_, false});
  }
  void send(const KvSend& part, SimTime now) override {
    sends.push_back({part, now});
    if (part.first == 0 && fails(part.request))
      return add({part.request, now + SimDuration(time_.ns() / 2), true});
    if (lost_.contains(part.request)) return;
    SimTime& free = free_[part.request];
    free = later(free, now) + SimDuration(time_.ns() * (part.last - part.first) / part.of);
    if (part.last == part.of) add({part.request, free, false});
  }
  void forget(RequestId request, SimTime) override {
    std::erase_if(due_, [&](const KvPullDone& d) { return d.request == request; });
  }
  SimTime next_event() override { return due_.empty() ? SimTime::never() : due_.front().at; }
  void collect(SimTime now, std::vector<KvPullDone>& done) override {
    while (!due_.empty() && due_.front().at <= now) {
      done.push_back(due_.front());
      due_.erase(due_.begin());
    }
  }
  struct Sent {
    KvSend part;
    SimTime at;
  };
  std::vector<KvPull> pulls;
  std::vector<Sent> sends;
  std::map<RequestId, std::int32_t> failures;  // how many first transfers of a request fail

 private:
  void add(const KvPullDone& done) {
    due_.push_back(done);
    std::sort(due_.begin(), due_.end(), [](const KvPullDone& a, const KvPullDone& b) {
      return a.at != b.at ? a.at < b.at : a.request < b.request;
    });
  }
  bool fails(RequestId request) {
    const auto it = failures.find(request);
    if (it == failures.end() || it->second == 0) {
      lost_.erase(request);
      return false;
    }
    --it->second;
    lost_.insert(request);
    return true;
  }
  SimDuration time_;
  std::vector<KvPullDone> due_;
  std::map<RequestId, SimTime> free_;
  std::set<RequestId> lost_;
};

struct Apart {
  world::World world;  // what both sides share; its replicas are not used
  std::size_t prefills = 1, decodes = 1, mixed = 0;
  std::int64_t prefill_blocks = 50000, decode_blocks = 50000;
  SimDuration transfer = SimDuration(0);
  double host_blocks_per_s = 100'000;
  PdRules rules = {};
  const char* scheduler = "vllm-v1";
  std::map<RequestId, std::int32_t> failures = {};
  std::optional<FleetPlan> fleet = {};
  std::vector<KvPull> pulls = {};
  std::vector<FixedTransport::Sent> sends = {};
};

// What every random world apart draws: a side or two of each, transfers that fail, clients that leave.
inline void draw_pools(Apart& a, std::vector<TraceRequest>& requests, RandomStream& random) {
  a.transfer = SimDuration(static_cast<std::int64_t>(random.below(60'000'000)));
  a.prefills = 1 + random.below(2);
  a.decodes = 1 + random.below(2);
  a.prefill_blocks = a.decode_blocks = a.world.config.num_gpu_blocks;
  a.rules.retries = static_cast<std::int32_t>(random.below(2));
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].index = i;
    if (random.below(8) == 0)
      requests[i].cancel_after = SimDuration(1 + static_cast<std::int64_t>(random.below(2'000'000'000)));
    if (random.below(8) == 0) a.failures[RequestId(i)] = 1;
  }
}

// SGLang's world in `a` with a side or two of each, transfers that fail, clients that leave. Requests with an
// EOS before their limit.
inline std::uint64_t draw_sglang_pools(Apart& a, std::vector<TraceRequest>& requests, RandomStream& random) {
  a.prefills = 1 + random.below(2);
  a.decodes = 1 + random.below(2);
  a.prefill_blocks = a.decode_blocks = a.world.config.num_gpu_blocks;
  a.rules.retries = static_cast<std::int32_t>(random.below(2));
  a.world.config.options.set("num_reserved_decode_tokens", static_cast<std::int64_t>(random.below(64)));
  std::erase_if(requests, [&, longest = a.world.config.max_model_len](const TraceRequest& q) {
    return q.prompt_tokens + q.max_output_tokens + 600 > longest;
  });
  std::uint64_t eos = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    requests[i].index = i;
    if (random.below(8) == 0)
      requests[i].cancel_after = SimDuration(1 + static_cast<std::int64_t>(random.below(2'000'000'000)));
    if (random.below(8) == 0) a.failures[RequestId(i)] = 1;
    eos += requests[i].output_tokens < requests[i].max_output_tokens ? 1 : 0;
  }
  return eos;
}

inline PoolSetup pool_of(PoolRole role, std::size_t instances, Router* router, const StepPricer& pricer) {
  PoolSetup pool;
  pool.name = to_string(role);
  pool.instances = instances;
  pool.role = role;
  pool.router = router;
  pool.proxy_delay = pricer.input_delay();
  pool.input_per_request = pricer.input_per_request();
  pool.core_wake = pricer.core_wake();
  pool.abort_delay = pricer.input_delay();
  return pool;
}

inline Result<RunResult> try_run(Apart& a, std::vector<TraceRequest> requests) {
  const world::World& w = a.world;
  auto pricer = StepPricer::create(w.spec).value();
  OutputLengths oracle;
  TraceInbox inbox(std::make_unique<world::Requests>(std::move(requests)), pricer.input_delay(),
                   w.concurrency, oracle);
  VirtualClock clock;
  FixedTransport transport(a.transfer);
  transport.failures = a.failures;
  SimulationSetup setup;
  std::vector<std::unique_ptr<CostModelExecutor>> executors;
  std::vector<std::unique_ptr<Router>> routers;
  std::vector<PooledExecutor::Part> parts;
  std::vector<SchedulerConfig> configs;  // by instance
  const auto fresh = [&](const SchedulerConfig& config) {
    return make_instance_scheduler(*find_scheduler(a.scheduler), config, pricer.ranks());
  };
  const auto add = [&](PoolRole role, std::size_t instances, std::int64_t blocks) {
    if (instances == 0) return;
    executors.push_back(std::make_unique<CostModelExecutor>(
        std::vector<const StepPricer*>(instances, &pricer), oracle, LaunchJitter{}, nullptr, w.acceptance));
    executors.back()->know_stages(w.spec.plan.gpus() / w.spec.plan.pp);
    const bool tier = w.config.offload.blocks > 0;
    if (role == PoolRole::decode || tier) executors.back()->add_host_links(HostLink(1, a.host_blocks_per_s));
    parts.push_back({executors.back().get(), instances});
    routers.push_back(find_router("least-loaded")->make());
    setup.pools.push_back(pool_of(role, instances, routers.back().get(), pricer));
    SchedulerConfig config = w.config;
    config.steps_in_flight = pricer.steps_in_flight();
    config.num_gpu_blocks = blocks;
    config.pulls_kv = role == PoolRole::decode;
    config.sends_kv = role != PoolRole::mixed && a.rules.at_once;
    config.recompute_failed_loads = a.rules.recompute_failed;
    for (std::size_t i = 0; i < instances; ++i) {
      setup.schedulers.push_back(fresh(config));
      configs.push_back(config);
    }
  };
  add(PoolRole::prefill, a.prefills, a.prefill_blocks);
  add(PoolRole::decode, a.decodes, a.decode_blocks);
  add(PoolRole::mixed, a.mixed, a.prefill_blocks);
  PooledExecutor all(parts);
  setup.clock = &clock;
  setup.executor = &all;
  setup.inbox = &inbox;
  setup.transport = &transport;
  setup.pd = a.rules;
  setup.sink = w.sink;
  setup.observer = w.observer;
  if (a.fleet) {
    setup.fleet = &*a.fleet;
    setup.make_scheduler = [&](InstanceId id) { return fresh(configs[id.value()]); };
  }
  auto run = run_simulation(std::move(setup));
  a.pulls = transport.pulls;
  a.sends = transport.sends;
  return run;
}

inline RunResult run(Apart& a, std::vector<TraceRequest> requests) {
  auto result = try_run(a, std::move(requests));
  if (!result.ok()) {
    for (const Error& error : result.errors()) std::fprintf(stderr, "%s\n", error.message.c_str());
  }
  return std::move(result).value();
}

// What must hold of any run of any rules: every request ends once, the parts of its first token add up, and
// single steps decide what stretches decide. Returns the run and its records.
struct Checked {
  RunResult run;
  std::vector<RequestRecord> records;
  std::vector<FixedTransport::Sent> sends;
};
inline SimDuration sum(const HandoffTimes& t);
inline Checked check(Apart a, const std::vector<TraceRequest>& requests) {
  world::Records by_stretch, by_step;
  a.world.sink = &by_stretch;
  Checked checked{.run = run(a, requests), .records = {}, .sends = a.sends};  // leaks are errors of the run
  a.world.sink = &by_step;
  a.world.config.stretches = false;
  const RunResult other = run(a, requests);
  REQUIRE(by_stretch.all.size() == requests.size());
  std::uint64_t tokens = 0;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    const RequestRecord &one = by_stretch.all[i], &two = by_step.all[i];
    REQUIRE(one.status == two.status);
    REQUIRE(one.ttft == two.ttft);
    REQUIRE(one.e2e == two.e2e);
    if (one.status != RequestStatus::completed) continue;
    const TraceRequest& asked = requests[one.request];
    REQUIRE(one.output_tokens == asked.output_tokens);
    tokens += static_cast<std::uint64_t>(one.output_tokens);
    if (!one.handoff.apart) continue;
    REQUIRE(sum(one.handoff) == one.ttft);
    for (const SimDuration part : {one.handoff.queue, one.handoff.prefill, one.handoff.wait,
                                   one.handoff.transfer, one.handoff.decode_queue, one.handoff.first_step})
      REQUIRE(part >= SimDuration(0));
  }
  REQUIRE(checked.run.output_tokens == tokens);
  REQUIRE(checked.run.digest == other.digest);
  REQUIRE(checked.run.steps == other.steps);
  checked.records = std::move(by_stretch.all);
  return checked;
}

inline SimDuration sum(const HandoffTimes& t) {
  return t.queue + t.prefill + t.wait + t.transfer + t.decode_queue + t.first_step;
}

inline std::vector<TraceRequest> burst(std::uint64_t count, double gap_s, std::int32_t prompt,
                                       std::int32_t output) {
  std::vector<TraceRequest> all;
  for (std::uint64_t i = 0; i < count; ++i)
    all.push_back(world::request(i, static_cast<double>(i) * gap_s, prompt, output));
  return all;
}

struct Steps final : RunObserver {
  std::vector<StepRecord> all;
  void on_step(const StepRecord& s) override { all.push_back(s); }
};

inline std::vector<RequestRecord> records_of(Apart& a, std::vector<TraceRequest> requests,
                                             Steps* steps = nullptr) {
  world::Records records;
  a.world.sink = &records;
  a.world.observer = steps;
  run(a, std::move(requests));
  return records.all;
}

}  // namespace apart
