#include "reports/casebook/step_times.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <deque>
#include <map>
#include <set>

#include "base/det_math.h"
#include "costmodel/pipeline.h"

namespace orrery {

double quantile_of(std::vector<double> values, double p) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto at = static_cast<std::size_t>(p * static_cast<double>(values.size()));
  return values[std::min(values.size() - 1, at)];
}

bool shape_of(const MeasuredStep& step, std::vector<PrefillChunk>& chunks, StepShape& shape) {
  if (step.decodes < 0) return false;
  chunks.clear();
  for (const MeasuredStep::Chunk& c : step.chunks)
    chunks.push_back({static_cast<std::int32_t>(c.tokens), c.context});
  shape = StepShape{.prefill = chunks,
                    .decode_sequences = static_cast<std::int32_t>(step.decodes),
                    .decode_context_tokens = step.decode_context,
                    .new_requests = static_cast<std::int32_t>(step.new_requests),
                    .running = static_cast<std::int32_t>(step.running)};
  return step.decodes > 0 || !chunks.empty();
}

namespace {

StepTiming logged_timing(const MeasuredStep& s, std::int64_t copy, std::int64_t step_gap) {
  StepTiming t;  // first_kernel stays 0: the logged device time counts from the begin of the launch
  t.step_gap = step_gap;
  t.schedule = s.times.schedule_ns;
  t.prepare = std::max<std::int64_t>(0, s.times.execute_start_ns - s.schedule_start_ns - t.schedule);
  t.launch = std::max<std::int64_t>(0, s.times.sample_end_ns - s.times.execute_start_ns);
  t.busy = s.times.gpu_rank0_ns;
  t.copy = copy;
  t.update = s.times.update_ns;
  return t;
}

struct OpenLogged {
  const MeasuredStep* step;
  StepTiming timing;
  StepTimes times;
  bool clean;  // no row is missing around it
};

class RecurrenceReplay {
 public:
  RecurrenceReplay(bool launcher_is_core, const StepTiming& profile, bool anchored)
      : launcher_is_core_(launcher_is_core), anchored_(anchored), pipeline_(launcher_is_core),
        copy_(profile.copy), step_gap_(profile.step_gap) {}

  void play(const MeasuredExperiment& experiment) {
    pipeline_ = HostPipeline(launcher_is_core_);
    open_.clear();
    last_update_end_ = -1;
    const MeasuredStep* previous = nullptr;
    for (std::size_t i = 0; i < experiment.steps.size(); ++i) {
      const MeasuredStep& s = experiment.steps[i];
      while (!open_.empty() && open_.front().step->update_start_ns < s.schedule_start_ns) update();
      // Nothing open: the device is idle. Serial experiments set their clock back here.
      if (open_.empty()) {
        pipeline_ = HostPipeline(launcher_is_core_);
        lost_ = false;
      }
      const bool clean = s.times.known && (previous == nullptr || s.step == previous->step + 1);
      previous = &s;
      lost_ = lost_ || !clean;
      if (!s.times.known) continue;
      if (last_update_end_ >= 0 && s.schedule_start_ns - last_update_end_ < 300'000)
        gaps_.push_back(static_cast<double>(s.schedule_start_ns - last_update_end_));
      OpenLogged o{&s, logged_timing(s, copy_, step_gap_), {}, clean && !lost_};
      o.times = pipeline_.begin(o.timing, SimTime(s.schedule_start_ns));
      if (lost_) take_up(o);
      if (anchored_ && clean && !open_.empty()) follow(*open_.back().step, o);
      last_update_end_ = -1;
      open_.push_back(o);
    }
    while (!open_.empty()) update();
  }

  StepTimeReplay result() const {
    std::vector<double> absolute;
    for (const double e : errors_) absolute.push_back(std::abs(e));
    return {.steps = static_cast<std::int64_t>(errors_.size()),
            .median_abs = median_of(absolute),
            .p90_abs = quantile_of(absolute, 0.9),
            .median_signed = median_of(errors_),
            .running_on_median_abs = 0,
            .copy_ns = median_of(copies_),
            .gap_ns = median_of(gaps_)};
  }

 private:
  // The step ahead left the device a copy before its update began, where that is later than this step's
  // launch: otherwise the core thread, busy launching, may have seen it late.
  void follow(const MeasuredStep& ahead, OpenLogged& o) {
    const std::int64_t left = ahead.update_start_ns - copy_;
    if (left < o.times.launch_end.ns() + 100'000 && launcher_is_core_) return;
    const SimTime begin = later(SimTime(left), o.times.launch_begin);
    o.times.device_end = later(begin + SimDuration(o.timing.busy), o.times.launch_end);
  }

  // The device's time for a row that the log lacks is nowhere: go on from the first end that the log shows
  // (the core thread was waiting for it). That step is not judged.
  void take_up(OpenLogged& o) {
    const std::int64_t left = o.step->update_start_ns - copy_;
    if (left < o.times.launch_end.ns() + 100'000) return;
    o.times.device_end = SimTime(left);
    pipeline_.device_known_free(o.times.device_end);
    lost_ = false;
  }

  void update() {
    OpenLogged o = open_.front();
    open_.pop_front();
    const SimTime free = pipeline_.core_free();
    pipeline_.update(o.timing, o.times);
    const MeasuredStep& s = *o.step;
    last_update_end_ = s.update_start_ns + s.times.update_ns;
    if (!o.clean) return;
    const auto logged = static_cast<double>(last_update_end_ - s.schedule_start_ns);
    errors_.push_back(static_cast<double>(o.times.update_end.ns() - s.schedule_start_ns) / logged - 1);
    if (s.update_start_ns > free.ns() + 100'000 && s.update_start_ns > o.times.device_end.ns())
      copies_.push_back(static_cast<double>(s.update_start_ns - o.times.device_end.ns()));
  }

  bool launcher_is_core_, anchored_, lost_ = false;
  HostPipeline pipeline_;
  std::int64_t copy_, step_gap_, last_update_end_ = -1;
  std::deque<OpenLogged> open_;
  std::vector<double> errors_, copies_, gaps_;
};

std::pair<bool, int> class_of(const MeasuredStep& s) {
  return {
      !s.chunks.empty(),
      static_cast<int>(std::bit_width(static_cast<std::uint64_t>(std::max<std::int64_t>(1, s.tokens)))) - 1};
}

}  // namespace

StepTimeReplay replay_step_times(const MeasuredRun& run, const StepPricer& pricer) {
  StepShape one;
  one.decode_sequences = 1;
  const StepTiming profile = pricer.price(one);
  RecurrenceReplay replay(pricer.launcher_is_core(), profile, true);
  RecurrenceReplay running_on(pricer.launcher_is_core(), profile, false);
  for (const MeasuredExperiment& e : run.experiments) {
    replay.play(e);
    running_on.play(e);
  }
  StepTimeReplay result = replay.result();
  result.running_on_median_abs = running_on.result().median_abs;
  return result;
}

std::vector<Stall> find_stalls(const MeasuredRun& run) {
  std::map<std::pair<bool, int>, std::vector<double>> classes;
  // Of the step itself: one that waits behind another is not stalled.
  const auto latency = [](const MeasuredStep& s) {
    return static_cast<double>(std::max(s.times.gpu_ns, s.times.sample_end_ns - s.times.execute_start_ns));
  };
  for (const MeasuredExperiment& e : run.experiments) {
    for (const MeasuredStep& s : e.steps) {
      if (s.times.known) classes[class_of(s)].push_back(latency(s));
    }
  }
  std::vector<Stall> stalls;
  std::set<std::pair<bool, std::int64_t>> seen;
  for (const MeasuredExperiment& e : run.experiments) {
    for (const MeasuredStep& s : e.steps) {
      const bool first = seen.insert({!s.chunks.empty(), s.tokens}).second;
      if (!s.times.known || !first) continue;
      const double median = median_of(classes[class_of(s)]);
      if (latency(s) <= 5 * median) continue;
      stalls.push_back({.experiment = e.name,
                        .step = s.step,
                        .tokens = s.tokens,
                        .begin_ns = s.schedule_start_ns,
                        .end_ns = s.update_start_ns + s.times.update_ns,
                        .class_median_ns = median,
                        .requests = s.chunk_requests});
    }
  }
  return stalls;
}

LoggedStepTimes::LoggedStepTimes(const MeasuredRun& run, const StepPricer& pricer,
                                 const std::vector<Stall>& stalls, const StepTimeReplay& replay)
    : copy_ns_(replay.copy_ns), gap_ns_(replay.gap_ns) {
  std::set<std::pair<std::string, std::int64_t>> left_out;
  for (const Stall& s : stalls) left_out.insert({s.experiment, s.step});
  std::vector<PrefillChunk> chunks;
  for (const MeasuredExperiment& e : run.experiments) {
    for (const MeasuredStep& s : e.steps) {
      StepShape shape;
      if (!s.times.known || left_out.contains({e.name, s.step}) || !shape_of(s, chunks, shape)) continue;
      const StepTiming priced = pricer.price(shape);
      const StepTiming logged = logged_timing(s, 0, 0);
      const auto ratio = [](std::int64_t measured, std::int64_t model) {
        return static_cast<float>(static_cast<double>(measured) /
                                  static_cast<double>(std::max<std::int64_t>(1, model)));
      };
      const bool host_paced = static_cast<double>(logged.launch) >= 0.95 * static_cast<double>(logged.busy);
      const float device = ratio(logged.busy, priced.busy);
      steps_[chunks.empty() ? 0 : 1].push_back(
          {.tokens = static_cast<float>(det_log(1.0 + static_cast<double>(s.tokens))),
           .decodes = static_cast<float>(det_log(1.0 + static_cast<double>(s.decodes))),
           .context = static_cast<float>(det_log(1.0 + static_cast<double>(s.decode_context))),
           .device = host_paced ? -1.0F : device,
           .schedule = ratio(logged.schedule, priced.schedule),
           .prepare = ratio(logged.prepare, priced.prepare),
           .launch = ratio(logged.launch, priced.launch),
           .update = ratio(logged.update, priced.update),
           .gpu = device});
    }
  }
}

StepTiming LoggedStepTimes::at(const StepShape& shape, const StepTiming& priced, Use use) const {
  constexpr std::size_t nearest = 5;
  const std::vector<Logged>& steps = steps_[shape.prefill.empty() ? 0 : 1];
  if (steps.empty()) return priced;
  double tokens = shape.decode_sequences;
  for (const PrefillChunk& c : shape.prefill) tokens += c.new_tokens;
  const auto t = static_cast<float>(det_log(1.0 + tokens));
  const auto d = static_cast<float>(det_log(1.0 + static_cast<double>(shape.decode_sequences)));
  const auto c = static_cast<float>(det_log(1.0 + static_cast<double>(shape.decode_context_tokens)));
  std::array<std::pair<float, const Logged*>, nearest> best{};
  std::size_t found = 0;
  for (const Logged& l : steps) {
    const float distance = 4 * std::abs(l.tokens - t) + 2 * std::abs(l.decodes - d) + std::abs(l.context - c);
    if (found == nearest && distance >= best[found - 1].first) continue;
    std::size_t at = found < nearest ? found++ : nearest - 1;
    for (; at > 0 && best[at - 1].first > distance; --at) best[at] = best[at - 1];
    best[at] = {distance, &l};
  }
  const auto scaled = [&](std::int64_t value, float Logged::*ratio) {
    std::vector<double> ratios;
    for (std::size_t i = 0; i < found; ++i) {
      if (best[i].second->*ratio >= 0) ratios.push_back(best[i].second->*ratio);
    }
    return ratios.empty() ? value : round_half_even(static_cast<double>(value) * median_of(ratios));
  };
  StepTiming timing = priced;
  timing.busy = scaled(priced.busy, use == Use::device ? &Logged::device : &Logged::gpu);
  if (use == Use::device) return timing;
  timing.schedule = scaled(priced.schedule, &Logged::schedule);
  timing.prepare = scaled(priced.prepare, &Logged::prepare);
  timing.launch = scaled(priced.launch, &Logged::launch);
  timing.update = scaled(priced.update, &Logged::update);
  timing.last_kernel = 0;  // the logged device time ends with the step
  timing.copy = round_half_even(copy_ns_);
  timing.gap = round_half_even(gap_ns_);
  return timing;
}

}  // namespace orrery
