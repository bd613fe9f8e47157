#include "reports/run_outputs.h"

#include <charconv>

#include "base/text.h"
#include "reports/html_report.h"
#include "reports/page_parts.h"
#include "reports/perfetto.h"
#include "reports/steps_csv.h"
#include "sim/costed/run.h"

namespace orrery {

namespace {

struct Window {
  SimTime begin = SimTime(0), end = SimTime::never();
  bool given = false;
};

Result<Window> parse_window(const std::string& text) {
  if (text.empty()) return Window{};
  double a = 0, b = 0;
  const char* end = text.data() + text.size();
  const auto first = std::from_chars(text.data(), end, a);
  if (first.ec == std::errc() && first.ptr != end && *first.ptr == ':') {
    const auto second = std::from_chars(first.ptr + 1, end, b);
    if (second.ec == std::errc() && second.ptr == end && a >= 0 && b > a && b < 1e9) {
      return Window{SimTime(duration_from_seconds(a).ns()), SimTime(duration_from_seconds(b).ns()), true};
    }
  }
  return make_error(ErrorKind::usage,
                    "--trace-window takes A:B, seconds of simulated time with A < B, not " + quote(text));
}

// What the outputs need to see of a run: rows go to the file, the worst TTFT is remembered for the trace
// window.
class Sink final : public RecordSink {
 public:
  explicit Sink(RequestsCsv* csv) : csv_(csv) {}
  void on_request(const RequestRecord& r) override {
    if (r.status == RequestStatus::completed && r.ttft > worst_ttft) {
      worst_ttft = r.ttft;
      worst_at = r.arrival;
    }
    if (csv_ != nullptr) csv_->on_request(r);
  }
  SimDuration worst_ttft;
  SimTime worst_at;

 private:
  RequestsCsv* csv_;
};

class Observers final : public RunObserver {
 public:
  Observers(PerfettoTrace* trace, StepsCsv* steps) : trace_(trace), steps_(steps) {}
  void on_step(const StepRecord& s) override {
    if (trace_ != nullptr) trace_->on_step(s);
    if (steps_ != nullptr) steps_->on_step(s);
  }
  void on_request_event(const RequestEvent& e) override {
    if (trace_ != nullptr) trace_->on_request_event(e);
  }
  void on_stay(const FleetResult::Stay& s) override {
    if (trace_ != nullptr) trace_->on_stay(s);
  }

 private:
  PerfettoTrace* trace_;
  StepsCsv* steps_;
};

}  // namespace

struct RunOutputs::State {
  OutputOptions options;
  AtomicDirectory directory;
  Window window;
  std::unique_ptr<RequestsCsv> requests;
  std::unique_ptr<PerfettoTrace> trace;
  std::unique_ptr<StepsCsv> steps;
  std::unique_ptr<Sink> sink;
  std::unique_ptr<Observers> observers;
};

RunOutputs::RunOutputs() = default;
RunOutputs::RunOutputs(RunOutputs&&) noexcept = default;
RunOutputs& RunOutputs::operator=(RunOutputs&&) noexcept = default;
RunOutputs::~RunOutputs() = default;

Result<RunOutputs> RunOutputs::create(const std::string& directory, const OutputOptions& options) {
  ORRERY_TRY(window, parse_window(options.trace_window));
  ORRERY_TRY(folder, AtomicDirectory::create(directory));
  RunOutputs outputs;
  outputs.state_ = std::make_unique<State>(
      State{options, std::move(folder), window, nullptr, nullptr, nullptr, nullptr, nullptr});
  State& s = *outputs.state_;
  if (options.level != "summary") {
    ORRERY_TRY(csv, RequestsCsv::create(s.directory.file("requests.csv"), options.itl, options.handoffs));
    s.requests = std::make_unique<RequestsCsv>(std::move(csv));
    s.sink = std::make_unique<Sink>(s.requests.get());
  }
  if (options.level == "all") s.trace = std::make_unique<PerfettoTrace>(window.begin, window.end);
  if (options.steps_csv) {
    ORRERY_TRY(csv, StepsCsv::create(s.directory.file("steps.csv")));
    s.steps = std::make_unique<StepsCsv>(std::move(csv));
  }
  if (s.trace != nullptr || s.steps != nullptr)
    s.observers = std::make_unique<Observers>(s.trace.get(), s.steps.get());
  return outputs;
}

RecordSink* RunOutputs::sink() { return state_ == nullptr ? nullptr : state_->sink.get(); }
RunObserver* RunOutputs::observer() { return state_ == nullptr ? nullptr : state_->observers.get(); }

namespace {

// Two steps that stand for a pool's part of the run: its mean decode batch, and a prompt of its mean length
// alone.
using Steps = std::vector<std::pair<std::string, StepBreakdown>>;
Status add_typical_steps(const Scenario& scenario, const PoolSpec& pool, std::int64_t instances,
                         const RunResult& r, Steps& out) {
  ORRERY_TRY(pricer, StepPricer::create(pool.instance, scenario.what_if));
  const std::string of = scenario.other_pools.empty() ? "" : " (pool " + pool.name + ")";
  const auto requests = static_cast<double>(r.completed);
  const double prompt = static_cast<double>(r.input_tokens) / requests,
               output = static_cast<double>(r.output_tokens) / requests;
  double running = 0;
  for (const double v : r.series.running) running += v;
  running /= static_cast<double>(std::max<std::size_t>(1, r.series.running.size())) *
             static_cast<double>(instances) * static_cast<double>(pricer.ranks());
  const auto batch = static_cast<std::int32_t>(std::max(1.0, std::min(running + 0.5, 1e6)));
  const auto context = static_cast<std::int64_t>(prompt + output / 2);
  const StepShape decode{.prefill = {}, .decode_sequences = batch, .decode_context_tokens = batch * context};
  if (pool.role != PoolRole::prefill)
    out.emplace_back(
        "decode step of " + std::to_string(batch) + " at context " + std::to_string(context) + of,
        pricer.explain(decode));
  const PrefillChunk chunk{static_cast<std::int32_t>(std::clamp(prompt, 1.0, 8192.0)), 0};
  const StepShape prefill{.prefill = std::span(&chunk, 1), .decode_sequences = 0, .decode_context_tokens = 0};
  if (pool.role != PoolRole::decode)
    out.emplace_back("prefill of " + std::to_string(chunk.new_tokens) + " tokens" + of,
                     pricer.explain(prefill));
  return ok_status();
}

Result<Steps> typical_steps(const Scenario& scenario, const RunResult& r) {
  Steps out;
  if (r.completed == 0) return out;
  std::int64_t decoding = 0;  // instances that share the running sequences
  for (const PoolSpec* pool : scenario.pools())
    if (pool->role == PoolRole::mixed || pool->role == PoolRole::decode) decoding += pool->engines();
  for (const PoolSpec* pool : scenario.pools()) {
    if (pool->role == PoolRole::encoder) continue;  // it runs no step of the language model
    ORRERY_TRY_STATUS(add_typical_steps(scenario, *pool, decoding, r, out));
  }
  return out;
}

}  // namespace

Result<std::vector<std::string>> RunOutputs::finish(const Scenario& scenario, const SummaryInput& summary,
                                                    const std::string& title, const std::string& command,
                                                    const std::function<bool(std::uint64_t)>& keep_going) {
  State& s = *state_;
  std::vector<std::string> warnings;
  if (s.requests != nullptr) ORRERY_TRY_STATUS(s.requests->commit());
  if (s.steps != nullptr) ORRERY_TRY_STATUS(s.steps->commit());
  if (s.trace != nullptr && s.trace->overflowed() && !s.window.given) {
    // The whole run does not fit: the same run again, the minute around its worst TTFT kept.
    const SimDuration half = seconds(30);
    const SimTime middle = s.sink->worst_at + s.sink->worst_ttft;
    *s.trace = PerfettoTrace(middle.ns() > half.ns() ? middle - half : SimTime(0), middle + half);
    RunOptions again;
    again.observer = s.trace.get();
    again.keep_going = keep_going;
    auto run = run_scenario(scenario, again);
    if (!run.ok()) return run.errors();
    ORRERY_CHECK(run->digest == summary.run->digest, "the same run again gave another digest");
  }
  if (s.trace != nullptr) ORRERY_TRY_STATUS(s.trace->write(s.directory.file("trace.json")));
  ORRERY_TRY_STATUS(
      write_file_atomically(s.directory.file("summary.json"), canonical_json(summary_json(summary))));
  ORRERY_TRY_STATUS(
      write_file_atomically(s.directory.file("scenario.resolved.yaml"), scenario.resolved_yaml()));
  if (s.options.level != "summary") {
    if (charts_library().empty()) {
      warnings.emplace_back(
          "report.html is not written: the charts library is missing; tools/fetch_plotly.py fetches it");
    } else {
      ORRERY_TRY(steps, typical_steps(scenario, *summary.run));
      const ReportInput report{.scenario = &scenario,
                               .summary = &summary,
                               .title = title,
                               .command = command,
                               .breakdowns = steps};
      ORRERY_TRY_STATUS(write_report(s.directory.file("report.html"), report));
    }
  }
  // Whatever this run was not asked for and an earlier one left would be taken for this run's.
  ORRERY_TRY_STATUS(s.directory.commit({"requests.csv", "steps.csv", "trace.json", "report.html"}));
  return warnings;
}

}  // namespace orrery
