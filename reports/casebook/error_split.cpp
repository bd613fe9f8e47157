#include "reports/casebook/error_split.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <optional>

#include "reports/casebook/replay_executors.h"
#include "sim/costed/cost_model_executor.h"
#include "sim/policies.h"
#include "sim/simulation.h"
#include "sim/trace_inbox.h"

namespace orrery {

namespace {

struct Latency {
  double ttft = -1, e2e = -1;  // milliseconds; −1 = none
};

class LatencySink final : public RecordSink {
 public:
  LatencySink(const std::vector<std::size_t>& order, std::size_t requests)
      : order_(order), latencies(requests) {}
  void on_request(const RequestRecord& r) override {
    if (r.status == RequestStatus::completed)
      latencies[order_[r.request]] = {r.ttft.milliseconds(), r.e2e.milliseconds()};
  }

 private:
  const std::vector<std::size_t>& order_;

 public:
  std::vector<Latency> latencies;
};

// A step as both the log and a simulation can say it; one-token chunks count as decodes, as in the log.
using StepKey = std::vector<std::int64_t>;

class ScheduleObserver final : public RunObserver {
 public:
  void on_step(const StepRecord& r) override {
    if (r.step >= keys.size()) keys.resize(r.step + 1);
    const auto chunks = chunks_.find(r.step);
    StepKey key{r.prefill_tokens + r.decode_sequences,
                static_cast<std::int64_t>(r.prefill_chunks) + r.decode_sequences};
    if (chunks != chunks_.end()) key.insert(key.end(), chunks->second.begin(), chunks->second.end());
    keys[r.step] = std::move(key);
  }
  void on_request_event(const RequestEvent& e) override {
    if (e.kind != RequestEvent::Kind::prefill_chunk || e.tokens == 1) return;
    std::vector<std::int64_t>& chunks = chunks_[e.step];
    chunks.push_back(e.tokens);
    chunks.push_back(e.context);
  }
  std::vector<StepKey> keys;

 private:
  std::map<std::uint64_t, std::vector<std::int64_t>> chunks_;
};

StepKey key_of(const MeasuredStep& s) {
  StepKey key{s.tokens, s.sequences};
  for (const MeasuredStep::Chunk& c : s.chunks) {
    key.push_back(c.tokens);
    key.push_back(c.context);
  }
  return key;
}

class ExperimentSource final : public RequestSource {
 public:
  ExperimentSource(const MeasuredExperiment& experiment, const std::vector<std::size_t>& order)
      : experiment_(experiment), order_(order) {}
  bool next(TraceRequest& r) override {
    if (at_ == order_.size()) return false;
    const MeasuredRequest& m = experiment_.requests[order_[at_]];
    r = TraceRequest{};
    r.index = at_++;
    r.arrival = SimTime(std::max<std::int64_t>(0, m.submit_ns));
    r.prompt_tokens = m.prompt_tokens;
    r.output_tokens = r.max_output_tokens = m.output_tokens;
    r.hash_ids = m.hash_ids;
    r.hash_block_size = experiment_.hash_block_size;
    return true;
  }
  const Error* error() const override { return nullptr; }

 private:
  const MeasuredExperiment& experiment_;
  const std::vector<std::size_t>& order_;
  std::size_t at_ = 0;
};

class Splitter {
 public:
  Splitter(const Scenario& scenario, const StepPricer& pricer, const MeasuredExperiment& experiment)
      : scenario_(scenario), pricer_(pricer), experiment_(experiment) {
    trace_order_.resize(experiment.requests.size());
    std::iota(trace_order_.begin(), trace_order_.end(), 0);
    submit_order_ = trace_order_;
    std::stable_sort(submit_order_.begin(), submit_order_.end(), [&](std::size_t a, std::size_t b) {
      return experiment.requests[a].submit_ns < experiment.requests[b].submit_ns;
    });
    concurrency_ = experiment.serial ? 1 : experiment.concurrency;
  }

  Result<std::vector<Latency>> predicted(ScheduleObserver* observer) {
    OutputLengths oracle;
    CostModelExecutor executor({&pricer_}, oracle);
    return free_running(executor, oracle, observer);
  }

  Result<std::vector<Latency>> with_times(StepTimeExecutor::Times times, bool profile_host) {
    OutputLengths oracle;
    StepTimeExecutor executor(pricer_, std::move(times), profile_host);
    return free_running(executor, oracle, nullptr);
  }

  // Nothing where the log does not say when the engine knew every request, or the schedule left the log.
  std::optional<std::vector<Latency>> outcomes(const ExperimentReplay& replay) {
    if (experiment_.serial || replay.known_at_ns.size() != experiment_.requests.size()) return std::nullopt;
    for (const std::int64_t at : replay.known_at_ns) {
      if (at < 0) return std::nullopt;
    }
    OutcomeExecutor executor(pricer_, experiment_);
    LoggedInbox inbox(experiment_, replay.known_at_ns, submit_order_);
    auto run = simulate(executor, inbox, submit_order_, nullptr);
    if (!run.ok() || executor.beyond() > 0) return std::nullopt;
    return *run;
  }

 private:
  Result<std::vector<Latency>> free_running(Executor& executor, OutputLengths& oracle,
                                            ScheduleObserver* observer) {
    const std::vector<std::size_t>& order = concurrency_ > 0 ? trace_order_ : submit_order_;
    TraceInbox inbox(std::make_unique<ExperimentSource>(experiment_, order), pricer_.input_delay(),
                     concurrency_, oracle);
    return simulate(executor, inbox, order, observer);
  }

  Result<std::vector<Latency>> simulate(Executor& executor, Inbox& inbox,
                                        const std::vector<std::size_t>& order, ScheduleObserver* observer) {
    SchedulerConfig config = scenario_.scheduler_config();
    config.steps_in_flight = pricer_.steps_in_flight();
    config.stretches = false;
    VirtualClock clock;
    LatencySink sink(order, experiment_.requests.size());
    const auto router = make_round_robin();
    SimulationSetup setup;
    setup.clock = &clock;
    setup.executor = &executor;
    setup.inbox = &inbox;
    setup.router = router.get();
    setup.schedulers.push_back(find_scheduler(scenario_.pool.instance.engine.scheduler)->make(config));
    setup.sink = &sink;
    setup.observer = observer;
    ORRERY_TRY(result, run_simulation(std::move(setup)));
    static_cast<void>(result);
    return std::move(sink.latencies);
  }

  const Scenario& scenario_;
  const StepPricer& pricer_;
  const MeasuredExperiment& experiment_;
  std::vector<std::size_t> trace_order_, submit_order_;
  std::int64_t concurrency_ = 0;
};

void compare_schedules(const MeasuredExperiment& experiment, const ScheduleObserver& ours,
                       ExperimentSplit& split) {
  std::map<StepKey, std::int64_t> free;
  for (const StepKey& key : ours.keys) ++free[key];
  const std::int64_t first = experiment.steps.empty() ? 0 : experiment.steps.front().step;
  for (const MeasuredStep& s : experiment.steps) {
    const StepKey key = key_of(s);
    ++split.logged_steps;
    const auto at = static_cast<std::size_t>(s.step - first);
    const bool same = at < ours.keys.size() && ours.keys[at] == key;
    split.in_place += same;
    if (!same && split.first_difference < 0) split.first_difference = s.step - first;
    if (auto found = free.find(key); found != free.end() && found->second > 0) {
      --found->second;
      ++split.partners;
    }
  }
}

const char* kind_of(const MeasuredExperiment& e) {
  if (e.serial) return "single";
  if (e.concurrency > 0) return "closed";
  return e.name.starts_with("static_") ? "static" : "open";
}

}  // namespace

Result<ExperimentSplit> split_errors(const Scenario& scenario, const StepPricer& pricer,
                                     const LoggedStepTimes& times, const MeasuredExperiment& experiment,
                                     const ExperimentReplay& replay, const std::vector<Stall>& stalls) {
  ExperimentSplit split;
  split.experiment = experiment.name;
  split.kind = kind_of(experiment);
  Splitter splitter(scenario, pricer, experiment);
  ScheduleObserver observer;
  ORRERY_TRY(predicted, splitter.predicted(&observer));
  const auto logged = [&](LoggedStepTimes::Use use) {
    return [&times, use](const StepShape& shape, const StepTiming& priced) {
      return times.at(shape, priced, use);
    };
  };
  ORRERY_TRY(device, splitter.with_times(logged(LoggedStepTimes::Use::device), true));
  ORRERY_TRY(host, splitter.with_times(logged(LoggedStepTimes::Use::device_and_host), false));
  const auto outcomes = splitter.outcomes(replay);
  compare_schedules(experiment, observer, split);

  std::vector<std::size_t> counted;
  for (std::size_t i = 0; i < experiment.requests.size(); ++i) {
    const MeasuredRequest& r = experiment.requests[i];
    if (r.ttft_ns < 0) continue;
    const bool stalled = std::any_of(stalls.begin(), stalls.end(), [&](const Stall& s) {
      if (s.experiment != experiment.name) return false;
      if (experiment.serial)
        return std::find(s.requests.begin(), s.requests.end(), static_cast<std::int64_t>(i)) !=
               s.requests.end();
      return r.submit_ns < s.end_ns && r.submit_ns + r.e2e_ns > s.begin_ns;
    });
    split.left_out += stalled;
    if (!stalled) counted.push_back(i);
  }
  const auto metric = [&](const char* name, auto value) {
    MetricSplit m;
    m.metric = name;
    m.has_outcomes = outcomes.has_value();
    double sums[5] = {};
    for (const std::size_t i : counted) {
      const MeasuredRequest& r = experiment.requests[i];
      const double measured =
          value(static_cast<double>(r.ttft_ns) / 1e6, static_cast<double>(r.e2e_ns) / 1e6, r);
      if (measured <= 0 || predicted[i].ttft < 0 || device[i].ttft < 0 || host[i].ttft < 0) continue;
      const auto of = [&](const std::vector<Latency>& run) { return value(run[i].ttft, run[i].e2e, r); };
      const double p = of(predicted), h = of(host);
      ++m.requests;
      sums[0] += measured;
      sums[1] += p;
      sums[2] += of(device);
      sums[3] += h;
      sums[4] += outcomes ? of(*outcomes) : measured;
      m.errors.push_back(p / measured - 1);
    }
    if (m.requests == 0) return;
    for (double& s : sums) s /= static_cast<double>(m.requests);
    m.measured = sums[0];
    m.predicted = sums[1];
    m.step_time = sums[1] - sums[2];
    m.host = sums[2] - sums[3];
    m.queueing = sums[3] - sums[4];
    m.client = sums[4] - sums[0];
    std::vector<double> absolute;
    for (const double e : m.errors) {
      absolute.push_back(std::abs(e));
      m.mean_signed += e / static_cast<double>(m.requests);
      m.mean_abs += std::abs(e) / static_cast<double>(m.requests);
    }
    m.median_abs = median_of(absolute);
    m.median_signed = median_of(m.errors);
    split.metrics.push_back(std::move(m));
  };
  split.counted = counted;
  metric("ttft_ms", [](double ttft, double, const MeasuredRequest&) { return ttft; });
  metric("tpot_ms", [](double ttft, double e2e, const MeasuredRequest& r) {
    return r.output_tokens > 1 ? (e2e - ttft) / (r.output_tokens - 1) : 0.0;
  });
  return split;
}

}  // namespace orrery
