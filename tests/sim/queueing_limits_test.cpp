// Limits that queueing theory gives in closed form. The loop, the scheduler, the router and the metrics are
// the real ones; only the executor is hand-built, so that service times are what the theory assumes.
//   M/D/1, M/M/1: one sequence at a time, a step a request; mean wait ρ·E[S²] / (2·E[S]·(1 − ρ))
//   processor sharing: a step takes as long as it has sequences; mean stay E[S] / (1 − ρ), whatever the law
//   M/M/c: c instances that are told apart by nothing but who is free; Erlang's C
// "Within sampling error": at most three standard errors, which come from means of batches and are bounded.
#include <cmath>
#include <functional>

#include "catch.h"
#include "conservation.h"
#include "world.h"

using namespace orrery;

namespace {

using Service = std::function<std::int64_t(const StepPlan&)>;  // nanoseconds

// One step in flight an instance; its outputs are there when it ends; nothing else takes time.
class TimedExecutor final : public Executor {
 public:
  TimedExecutor(std::size_t instances, Service service)
      : open_(instances), updates_(instances), service_(std::move(service)) {}
  void submit(StepId step, InstanceId instance, const StepPlan& plan, SimTime now) override {
    open_[instance.value()] = {true, step, now, now + SimDuration(service_(plan))};
  }
  void cut(InstanceId, SimTime) override {}
  void ended(InstanceId, SequenceId) override {}
  SimTime next_event() const override {
    SimTime first = SimTime::never();
    for (const Open& o : open_) {
      if (o.busy && o.end < first) first = o.end;
    }
    return first;
  }
  void collect(SimTime now, Outcomes& out) override {
    for (std::size_t i = 0; i < open_.size(); ++i) {
      Open& o = open_[i];
      if (!o.busy || o.end > now) continue;
      o.busy = false;
      updates_[i] = o.end;
      const StepStamp stamp{o.begin, o.begin, o.begin, o.end};
      out.steps.push_back({.instance = InstanceId(static_cast<std::uint32_t>(i)),
                           .first = o.step,
                           .scheduled = 1,
                           .updates = {&updates_[i], 1},
                           .eos = {},
                           .spoken = {},
                           .at = o.end,
                           .first_stamp = stamp,
                           .second_stamp = stamp,
                           .last_stamp = stamp});
    }
  }
  std::int32_t depth(InstanceId) const override { return 1; }
  SimDuration output_delay(InstanceId) const override { return SimDuration(0); }
  SimDuration output_per_sequence(InstanceId) const override { return SimDuration(0); }

 private:
  struct Open {
    bool busy = false;
    StepId step;
    SimTime begin, end;
  };
  std::vector<Open> open_;
  std::vector<SimTime> updates_;
  Service service_;
};

struct Queue {
  std::size_t servers = 1;
  std::int64_t max_num_seqs = 1;
  const char* router = "round-robin";
  Service service;
};

struct Outcome {
  RunResult run;
  std::vector<RequestRecord> records;
};

Outcome serve(const Queue& q, std::vector<TraceRequest> requests) {
  world::Records records;
  OutputLengths oracle;
  TraceInbox inbox(std::make_unique<world::Requests>(std::move(requests)), SimDuration(0), 0, oracle,
                   nullptr);
  TimedExecutor executor(q.servers, q.service);
  VirtualClock clock;
  const auto router = find_router(q.router)->make();
  SimulationSetup setup;
  setup.clock = &clock;
  setup.executor = &executor;
  setup.inbox = &inbox;
  setup.router = router.get();
  SchedulerConfig config{.max_num_batched_tokens = 8192,
                         .max_num_seqs = q.max_num_seqs,
                         .max_model_len = 40960,
                         .num_gpu_blocks = 200000,
                         .block_size = 16,
                         .enable_prefix_caching = false,
                         .steps_in_flight = 1,
                         .stretches = false};
  for (std::size_t i = 0; i < q.servers; ++i)
    setup.schedulers.push_back(make_instance_scheduler(*find_scheduler("vllm-v1"), config, 1));
  setup.sink = &records;
  Outcome out;
  out.run = run_simulation(std::move(setup)).value();
  out.records = std::move(records.all);
  return out;
}

constexpr double mean_service_s = 0.010;
constexpr std::size_t requests_of_a_run = 40000;

// Poisson arrivals; `tokens` of a request by index.
std::vector<TraceRequest> poisson(double rate, std::uint64_t seed,
                                  const std::function<std::int32_t(std::size_t)>& tokens) {
  RandomStream random(seed, RandomPurpose::property_test, 1);
  std::vector<TraceRequest> all;
  double at = 0;
  for (std::size_t i = 0; i < requests_of_a_run; ++i) {
    at += random.exponential(1 / rate);
    all.push_back(world::request(i, at, 1, tokens(i)));
  }
  return all;
}

// Service times by request, for steps of one request.
Service by_request(std::vector<std::int64_t> ns) {
  return [ns = std::move(ns)](const StepPlan& plan) {
    REQUIRE(plan.prefill.size() == 1);
    REQUIRE(plan.decode_sequences == 0);
    return ns[plan.prefill[0].request.value()];
  };
}

std::vector<std::int64_t> exponential_services(std::uint64_t seed) {
  RandomStream random(seed, RandomPurpose::property_test, 2);
  std::vector<std::int64_t> ns;
  for (std::size_t i = 0; i < requests_of_a_run; ++i)
    ns.push_back(static_cast<std::int64_t>(random.exponential(mean_service_s) * 1e9) + 1);
  return ns;
}

struct Estimate {
  double mean = 0, error = 0;  // seconds; standard error of the mean
};

// Batches of a thousand requests are longer than what correlates their stays at these loads.
Estimate estimate(const std::vector<RequestRecord>& records,
                  const std::function<SimDuration(const RequestRecord&)>& of) {
  constexpr std::size_t batch = 1000, warm_up = 2000;
  std::vector<double> means;
  for (std::size_t from = warm_up; from + batch <= records.size(); from += batch) {
    double sum = 0;
    for (std::size_t i = from; i < from + batch; ++i) sum += static_cast<double>(of(records[i]).ns()) * 1e-9;
    means.push_back(sum / batch);
  }
  Estimate e;
  for (const double m : means) e.mean += m / static_cast<double>(means.size());
  double square = 0;
  for (const double m : means) square += (m - e.mean) * (m - e.mean);
  const auto n = static_cast<double>(means.size());
  e.error = std::sqrt(square / (n - 1) / n);
  return e;
}

void check_near(const Estimate& e, double theory) {
  CAPTURE(e.mean, e.error, theory);
  CHECK(e.error < 0.06 * theory);  // else agreement would say nothing
  CHECK(std::abs(e.mean - theory) < 3 * e.error);
}

// Little's law, exactly: nothing but the queue and the server lies between arrival and last token.
void check_little(const Outcome& o) {
  double present = 0, stays = 0;
  const TimeSeries& s = o.run.series;
  for (std::size_t i = 0; i < s.running.size(); ++i)
    present += (s.running[i] + s.waiting[i]) * static_cast<double>(s.width.ns());
  for (const RequestRecord& q : o.records) stays += static_cast<double>(q.e2e.ns());
  CHECK(present == Approx(stays).epsilon(1e-9));
}

SimDuration wait_of(const RequestRecord& q) { return q.queue; }
SimDuration stay_of(const RequestRecord& q) { return q.e2e; }

}  // namespace

TEST_CASE("M/D/1: constant service, waits of half of M/M/1's [limits]") {
  for (const double load : {0.3, 0.7, 0.85}) {
    const Outcome o = serve({.service = [](const StepPlan&) { return std::int64_t{10'000'000}; }},
                            poisson(load / mean_service_s, 11, [](std::size_t) { return 1; }));
    REQUIRE(o.run.completed == requests_of_a_run);
    check_near(estimate(o.records, wait_of), load * mean_service_s / (2 * (1 - load)));
    check_little(o);
  }
}

TEST_CASE("M/M/1: exponential service [limits]") {
  for (const double load : {0.3, 0.7, 0.8}) {
    const Outcome o = serve({.service = by_request(exponential_services(5))},
                            poisson(load / mean_service_s, 12, [](std::size_t) { return 1; }));
    check_near(estimate(o.records, wait_of), load * mean_service_s / (1 - load));
    check_near(estimate(o.records, stay_of), mean_service_s / (1 - load));
    check_little(o);
  }
}

TEST_CASE("processor sharing: a batch whose step grows with it, any law of lengths [limits]") {
  constexpr double tokens_mean = 50;
  const double token_s = mean_service_s / tokens_mean;
  const auto service = [&](const StepPlan& plan) {
    return static_cast<std::int64_t>(static_cast<double>(plan.tokens()) * token_s * 1e9);
  };
  RandomStream random(9, RandomPurpose::property_test, 3);
  std::vector<std::int32_t> drawn;
  for (std::size_t i = 0; i < requests_of_a_run; ++i)
    drawn.push_back(1 + static_cast<std::int32_t>(random.exponential(tokens_mean - 0.5)));
  const double load = 0.6;
  for (const bool equal : {true, false}) {
    const auto tokens = [&](std::size_t i) {
      return equal ? static_cast<std::int32_t>(tokens_mean) : drawn[i];
    };
    const Outcome o =
        serve({.max_num_seqs = 4096, .service = service}, poisson(load / mean_service_s, 13, tokens));
    double mean = 0;
    for (std::size_t i = 0; i < requests_of_a_run; ++i) mean += tokens(i) * token_s / requests_of_a_run;
    const double rho = load / mean_service_s * mean;
    const Estimate e = estimate(o.records, stay_of);
    // A step is a quantum: who comes waits for the end of the one that runs, in the mean half of
    // E[n²]/E[n] = (1 + ρ)/(1 − ρ) tokens, with probability ρ.
    const double quantum = rho * token_s * (1 + rho) / (1 - rho) / 2;
    CAPTURE(equal, e.mean, e.error, mean / (1 - rho), quantum);
    CHECK(e.error < 0.03 * e.mean);
    CHECK(e.mean > mean / (1 - rho) - 3 * e.error);
    CHECK(e.mean < mean / (1 - rho) + 2 * quantum + 3 * e.error);
    check_little(o);
  }
}

TEST_CASE("M/M/c: c sequences of one instance are c servers with one queue [limits]") {
  // A decode step of constant time, whoever is in it; lengths geometric: memoryless, in steps.
  constexpr double tokens_mean = 60;
  constexpr std::int64_t servers = 4;
  const double token_s = mean_service_s / tokens_mean, load = 0.8;
  RandomStream random(21, RandomPurpose::property_test, 4);
  std::vector<std::int32_t> drawn;
  double mean = 0;
  for (std::size_t i = 0; i < requests_of_a_run; ++i) {
    drawn.push_back(1 + static_cast<std::int32_t>(random.exponential(tokens_mean - 0.5)));
    mean += drawn.back() * token_s / requests_of_a_run;
  }
  const Outcome o =
      serve({.max_num_seqs = servers,
             .service = [&](const StepPlan&) { return static_cast<std::int64_t>(token_s * 1e9); }},
            poisson(load * servers / mean_service_s, 14, [&](std::size_t i) { return drawn[i]; }));
  const double a = load * servers / mean_service_s * mean, rho = a / servers;
  double sum = 0, term = 1;
  for (int k = 0; k < servers; ++k) {
    sum += term;
    term *= a / (k + 1);
  }
  const double c = term / (1 - rho) / (sum + term / (1 - rho));  // probability of waiting
  const double wait = c * mean / (servers * (1 - rho));
  const Estimate e = estimate(o.records, wait_of);
  CAPTURE(e.mean, e.error, wait, token_s);
  CHECK(e.error < 0.08 * wait);
  // Everybody, also who finds a free place, waits for the end of the step that runs: at most one.
  CHECK(e.mean > wait - 3 * e.error);
  CHECK(e.mean < wait + token_s + 3 * e.error);
  check_little(o);
}

TEST_CASE("N instances behind a perfect router are one instance N times [limits]") {
  // Every request N times at one instant: round-robin gives each instance one of them, and each request's
  // life is what it is on one instance alone, to the nanosecond.
  const std::size_t n = 5;
  std::vector<TraceRequest> once =
      poisson(60, 15, [](std::size_t i) { return static_cast<std::int32_t>(1 + i % 37); });
  once.resize(4000);
  std::vector<TraceRequest> many;
  for (const TraceRequest& r : once) {
    for (std::size_t k = 0; k < n; ++k) {
      many.push_back(r);
      many.back().index = many.size() - 1;
    }
  }
  const auto service = [](const StepPlan& plan) { return 300'000 + 10'000 * plan.tokens(); };
  const Outcome one = serve({.max_num_seqs = 8, .service = service}, once);
  const Outcome all = serve({.servers = n, .max_num_seqs = 8, .service = service}, many);
  REQUIRE(all.records.size() == n * one.records.size());
  CHECK(all.run.steps == n * one.run.steps);
  std::size_t different = 0;
  for (std::size_t i = 0; i < all.records.size(); ++i) {
    const RequestRecord &a = all.records[i], &b = one.records[i / n];
    different += a.e2e != b.e2e || a.ttft != b.ttft || a.queue != b.queue ? 1 : 0;
  }
  CHECK(different == 0);
}
