// Small worlds for the simulator's tests: hand-written requests on a hand-written part, no files.
#pragma once

#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "../costmodel/hand_spec.h"
#include "base/random.h"
#include "sim/costed/cost_model_executor.h"
#include "sim/policies.h"
#include "sim/simulation.h"
#include "sim/speculation.h"
#include "sim/trace_inbox.h"

namespace orrery::world {

class Requests final : public RequestSource {
 public:
  explicit Requests(std::vector<TraceRequest> all) : all_(std::move(all)) {}
  bool next(TraceRequest& r) override {
    if (at_ == all_.size()) return false;
    r = all_[at_++];
    return true;
  }
  const Error* error() const override { return nullptr; }

 private:
  std::vector<TraceRequest> all_;
  std::size_t at_ = 0;
};

inline TraceRequest request(std::uint64_t index, double at_s, std::int32_t prompt, std::int32_t output) {
  TraceRequest r;
  r.index = index;
  r.arrival = SimTime(duration_from_seconds(at_s).ns());
  r.prompt_tokens = prompt;
  r.output_tokens = r.max_output_tokens = output;
  return r;
}

struct World {
  InstanceSpec spec = hand::instance(hand::dense());
  SchedulerConfig config{.max_num_batched_tokens = 8192,
                         .max_num_seqs = 256,
                         .max_model_len = 40960,
                         .num_gpu_blocks = 50000,
                         .block_size = 16};
  const char* scheduler = "vllm-v1";
  std::size_t replicas = 1;
  const char* router = "least-loaded";
  std::int64_t concurrency = 0;
  bool itl = false;
  std::optional<FrontEndConfig> front_end;
  StreamRule stream;
  Slo slo;
  RecordSink* sink = nullptr;
  RunObserver* observer = nullptr;
  const ImageProcessor* images = nullptr;  // of a multimodal model, with what encodes them
  const EncoderPricer* encoder = nullptr;
  double host_blocks_per_s = 0;                                 // of the host link, one direction
  const AcceptanceOracle* acceptance = nullptr;                 // with config.speculation
  std::shared_ptr<const AcceptanceOracle> own_acceptance = {};  // the same, where the world keeps it
  std::optional<FleetPlan> fleet = {};                          // instances come and go
};

// Wrappers that hand things over in another order; the loop must not care.
class ShuffledInbox final : public Inbox {
 public:
  ShuffledInbox(Inbox& inner, std::uint64_t seed)
      : inner_(inner), random_(seed, RandomPurpose::property_test) {}
  SimTime next() const override { return inner_.next(); }
  void poll(SimTime now, Arrivals& arrivals) override {
    const std::size_t from = arrivals.size();
    inner_.poll(now, arrivals);
    for (std::size_t i = arrivals.size(); i > from + 1; --i) {
      std::swap(arrivals[i - 1], arrivals[from + random_.below(i - from)]);
    }
  }
  void on_finished(RequestId request, SimTime at) override { inner_.on_finished(request, at); }

 private:
  Inbox& inner_;
  RandomStream random_;
};

class ShuffledExecutor final : public Executor {
 public:
  ShuffledExecutor(Executor& inner, std::uint64_t seed)
      : inner_(inner), random_(seed, RandomPurpose::property_test, 1) {}
  void submit(StepId s, InstanceId i, const StepPlan& p, SimTime now) override {
    inner_.submit(s, i, p, now);
  }
  void transfer(InstanceId i, std::span<const TransferWork> work, SimTime now) override {
    inner_.transfer(i, work, now);
  }
  void cut(InstanceId i, SimTime at) override { inner_.cut(i, at); }
  void take_input(InstanceId i, std::int64_t n, SimTime at) override { inner_.take_input(i, n, at); }
  void ended(InstanceId i, SequenceId s) override { inner_.ended(i, s); }
  void reset(InstanceId i, SimTime now) override { inner_.reset(i, now); }
  void set_speed(InstanceId i, std::int32_t gpu, double factor) override { inner_.set_speed(i, gpu, factor); }
  void end_before(InstanceId i, SimTime at) override { inner_.end_before(i, at); }
  SimTime next_event() const override { return inner_.next_event(); }
  void collect(SimTime now, Outcomes& out) override {
    inner_.collect(now, out);
    for (std::size_t i = out.steps.size(); i > 1; --i)
      std::swap(out.steps[i - 1], out.steps[random_.below(i)]);
    for (std::size_t i = out.host_free.size(); i > 1; --i)
      std::swap(out.host_free[i - 1], out.host_free[random_.below(i)]);
  }
  std::int32_t depth(InstanceId i) const override { return inner_.depth(i); }
  SimDuration output_delay(InstanceId i) const override { return inner_.output_delay(i); }
  SimDuration output_per_sequence(InstanceId i) const override { return inner_.output_per_sequence(i); }

 private:
  Executor& inner_;
  RandomStream random_;
};

inline RunResult run(const World& w, std::vector<TraceRequest> requests, std::uint64_t shuffle_seed = 0) {
  auto pricer = StepPricer::create(w.spec).value();
  OutputLengths oracle;
  std::optional<ImageFrontEnd> front_end;
  if (w.images != nullptr) {
    const std::int32_t block = w.scheduler == std::string_view("vllm-v1") ? w.config.block_size : 1;
    front_end.emplace(*w.images, block, static_cast<std::int32_t>(w.replicas));
  }
  TraceInbox inbox(std::make_unique<Requests>(std::move(requests)), pricer.input_delay(), w.concurrency,
                   oracle, front_end ? &*front_end : nullptr);
  CostModelExecutor executor(std::vector<const StepPricer*>(w.replicas, &pricer), oracle, {}, w.encoder,
                             w.acceptance);
  if (w.host_blocks_per_s > 0) executor.add_host_links(HostLink(1, w.host_blocks_per_s));
  ShuffledInbox shuffled_inbox(inbox, shuffle_seed);
  ShuffledExecutor shuffled_executor(executor, shuffle_seed);
  VirtualClock clock;
  const auto router = find_router(w.router)->make();
  SimulationSetup setup;
  setup.clock = &clock;
  setup.executor = shuffle_seed == 0 ? static_cast<Executor*>(&executor) : &shuffled_executor;
  setup.inbox = shuffle_seed == 0 ? static_cast<Inbox*>(&inbox) : &shuffled_inbox;
  setup.router = router.get();
  SchedulerConfig config = w.config;
  config.steps_in_flight = pricer.steps_in_flight();
  for (std::size_t i = 0; i < w.replicas; ++i)
    setup.schedulers.push_back(make_instance_scheduler(*find_scheduler(w.scheduler), config, pricer.ranks()));
  if (w.fleet) {
    setup.fleet = &*w.fleet;
    setup.make_scheduler = [&](InstanceId) {
      return make_instance_scheduler(*find_scheduler(w.scheduler), config, pricer.ranks());
    };
  }
  setup.front_end = w.front_end;
  setup.stream = w.stream;
  setup.stream.speculates = w.acceptance != nullptr;
  setup.input_per_request = pricer.input_per_request();
  setup.core_wake = pricer.core_wake();
  setup.abort_delay = pricer.input_delay();
  setup.sink = w.sink;
  setup.observer = w.observer;
  setup.slo = w.slo;
  setup.per_request_itl = w.itl;
  auto run = run_simulation(std::move(setup));
  if (!run.ok()) {
    for (const Error& error : run.errors()) std::fprintf(stderr, "%s\n", error.message.c_str());
  }
  RunResult result = std::move(run).value();
  result.prices = executor.usage().prices;
  return result;
}

struct Records final : RecordSink {
  std::vector<RequestRecord> all;
  void on_request(const RequestRecord& r) override { all.push_back(r); }
};

// A random world in which everything happens: bursts, long and short prompts, shared prefixes, EOS before the
// limit, pools so small that sequences are preempted.
struct RandomWorld {
  World world;
  std::vector<TraceRequest> requests;
};
inline RandomWorld random_world(std::uint64_t seed) {
  RandomStream r(seed, RandomPurpose::property_test, 7);
  RandomWorld out;
  World& w = out.world;
  const auto pick = [&](std::uint64_t low, std::uint64_t high) { return low + r.below(high - low + 1); };
  w.replicas = pick(1, 3);
  w.config.block_size = r.below(2) == 0 ? 16 : 32;
  w.config.max_num_batched_tokens = static_cast<std::int64_t>(pick(64, 4096));
  w.config.max_num_seqs = static_cast<std::int64_t>(pick(2, 64));
  w.config.max_num_seqs = std::min(w.config.max_num_seqs, w.config.max_num_batched_tokens);
  w.config.max_model_len = 4096;
  w.config.num_gpu_blocks = 2 + static_cast<std::int64_t>(pick(1, 4)) * 4096 / w.config.block_size;
  w.config.enable_prefix_caching = r.below(4) != 0;
  w.config.long_prefill_token_threshold = r.below(4) == 0 ? static_cast<std::int64_t>(pick(32, 512)) : 0;
  w.spec.engine.steps_in_flight = r.below(4) == 0 ? 1 : 2;
  w.concurrency = r.below(4) == 0 ? static_cast<std::int64_t>(pick(1, 40)) : 0;
  w.router = r.below(2) == 0 ? "round-robin" : "least-loaded";
  const std::uint64_t count = pick(5, 120);
  double at = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    if (r.below(3) != 0) at += r.exponential(0.05);
    // One draw a statement: compilers evaluate arguments in different orders.
    const auto output = static_cast<std::int32_t>(pick(1, r.below(4) == 0 ? 800 : 60));
    const auto prompt = static_cast<std::int32_t>(pick(1, r.below(4) == 0 ? 3000 : 300));
    auto q = request(i, at, prompt, output);
    if (r.below(3) == 0) q.max_output_tokens += static_cast<std::int32_t>(r.below(50));
    if (r.below(2) == 0) {
      q.hash_block_size = 128;
      const auto ids = static_cast<std::uint64_t>((q.prompt_tokens + 127) / 128);
      const std::uint64_t shared = r.below(ids + 1), family = r.below(3);
      for (std::uint64_t k = 0; k < ids; ++k)
        q.hash_ids.push_back(k < shared ? family * 1000 + k : (i + 10) * 1000 + k);
    } else if (r.below(4) == 0) {
      q.session = 1 + r.below(4);
    }
    out.requests.push_back(q);
  }
  return out;
}

// The same for SGLang: pools so small that requests are retracted, chunks, policies, pages.
inline RandomWorld random_sglang_world(std::uint64_t seed) {
  RandomWorld out = random_world(seed);
  World& w = out.world;
  RandomStream r(seed, RandomPurpose::property_test, 8);
  const auto pick = [&](std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(r.below(static_cast<std::uint64_t>(high - low + 1)));
  };
  w.scheduler = "sglang";
  w.config.block_size = r.below(3) == 0 ? 16 : 1;
  w.config.max_model_len = 4096;
  w.config.max_num_seqs = pick(2, 48);
  const bool small = r.below(2) == 0;
  w.config.num_gpu_blocks = pick(4112, small ? 5000 : 12000) / w.config.block_size;
  NamedOptions& o = w.config.options;
  o = NamedOptions{};
  const bool whole = r.below(5) == 0;
  o.set("chunked_prefill_size", whole ? std::int64_t{-1} : 16 * pick(4, 200));
  o.set("max_prefill_tokens", pick(256, 16384));
  o.set("disable_radix_cache", r.below(5) == 0);
  o.set("enable_mixed_chunk", r.below(4) == 0);
  o.set("schedule_conservativeness", r.below(2) == 0 ? 1.0 : 0.02);
  const auto choose = [&](const std::array<const char*, 4>& names) {
    const std::uint64_t usual = r.below(2), other = r.below(4);
    return std::string(names[usual == 0 ? 0 : other]);
  };
  const std::array<const char*, 4> policies{"fcfs", "lpm", "lof", "shortest-prefill-first"};
  o.set("schedule_policy", choose(policies));
  const std::array<const char*, 4> evictions{"lru", "lfu", "slru", "priority"};
  o.set("radix_eviction_policy", choose(evictions));
  const bool spaced = r.below(5) == 0;
  o.set("prefill_decode_interval", spaced ? pick(1, 5) : 0);
  if (r.below(6) == 0) o.set("prefill_max_requests", pick(1, 4));
  const bool talkative = small && r.below(2) == 0;
  if (talkative) o.set("schedule_conservativeness", 0.02);
  for (TraceRequest& q : out.requests) {
    if (talkative) {
      q.prompt_tokens = std::min(q.prompt_tokens, 300);
      q.hash_ids.resize(std::min(q.hash_ids.size(), static_cast<std::size_t>((q.prompt_tokens + 127) / 128)));
      q.output_tokens += static_cast<std::int32_t>(r.below(600));
      q.max_output_tokens = q.output_tokens;
    }
    // Most say EOS well before their limit, which is where admission bets too high and retraction comes from.
    const auto room =
        std::min<std::int64_t>(w.config.max_model_len - q.prompt_tokens, 1200) - q.output_tokens;
    if (room > 0 && r.below(3) != 0) {
      q.max_output_tokens =
          q.output_tokens + static_cast<std::int32_t>(r.below(static_cast<std::uint64_t>(room)));
    }
  }
  return out;
}

}  // namespace orrery::world
