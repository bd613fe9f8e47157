#include "reports/casebook/replay_executors.h"

#include <algorithm>

#include "sim/costed/prompt_chunks.h"

namespace orrery {

StepTimeExecutor::StepTimeExecutor(const StepPricer& pricer, Times times, bool profile_host)
    : pricer_(pricer), times_(std::move(times)), profile_host_(profile_host),
      pipeline_(pricer.launcher_is_core()) {}

void StepTimeExecutor::submit(StepId, InstanceId, const StepPlan& plan, SimTime now) {
  ORRERY_CHECK(plan.repeat == 1, "replay runs single steps");
  chunks_.clear();
  StepShape shape{.prefill = {},
                  .decode_sequences = plan.decode_sequences,
                  .decode_context_tokens = plan.decode_context_tokens,
                  .new_requests = plan.new_requests,
                  .running = plan.running};
  add_prompts(plan.prefill, pricer_, shape, chunks_);
  shape.prefill = chunks_;
  Open open{.timing = times_(shape, pricer_.price(shape)),
            .times = {},
            .prompts_alone = !plan.prefill.empty() && plan.decode_sequences == 0};
  open.times = pipeline_.begin(open.timing, now);
  open_.push_back(open);
  host_free_due_ = open_.size() < static_cast<std::size_t>(pricer_.steps_in_flight());
}

void StepTimeExecutor::take_input(InstanceId, std::int64_t prompt_tokens, SimTime now) {
  if (!profile_host_ || open_.empty() || !open_.back().prompts_alone) return;
  pipeline_.delay_launch(open_.back().timing, open_.back().times, pricer_.input_work(prompt_tokens), now);
}

SimTime StepTimeExecutor::next_event() const {
  if (host_free_due_) return pipeline_.core_free();
  if (open_.empty()) return SimTime::never();
  HostPipeline ahead = pipeline_;
  StepTimes times = open_.front().times;
  ahead.update(open_.front().timing, times);
  return ahead.core_free();
}

void StepTimeExecutor::collect(SimTime now, Outcomes& outcomes) {
  const SimTime at = next_event();
  if (at > now) return;
  if (host_free_due_) {
    host_free_due_ = false;
    outcomes.host_free.push_back({InstanceId(0), at});
    return;
  }
  Open& oldest = open_.front();
  pipeline_.update(oldest.timing, oldest.times);
  update_ = oldest.times.update_end;
  const StepStamp stamp{.schedule_begin = oldest.times.schedule_begin,
                        .launch_begin = oldest.times.launch_begin,
                        .device_begin = oldest.times.device_begin,
                        .device_end = oldest.times.device_end};
  open_.pop_front();
  outcomes.steps.push_back({.instance = InstanceId(0),
                            .first = StepId(next_update_++),
                            .scheduled = 1,
                            .updates = {&update_, 1},
                            .eos = {},
                            .spoken = {},
                            .at = at,
                            .first_stamp = stamp,
                            .second_stamp = stamp,
                            .last_stamp = stamp});
}

// ------------------------------------------------------------------------------------------ measured
// outcomes

OutcomeExecutor::OutcomeExecutor(const StepPricer& pricer, const MeasuredExperiment& experiment)
    : pricer_(pricer) {
  const MeasuredStep* previous = nullptr;
  for (const MeasuredStep& s : experiment.steps) {
    // A row that the logger lost: before the update of the step ahead of it, after the next schedule.
    if (previous != nullptr && s.step == previous->step + 2) {
      steps_.push_back({SimTime(previous->update_start_ns - 1), SimTime(s.schedule_start_ns + 1),
                        SimTime(s.schedule_start_ns + 1)});
    }
    steps_.push_back({SimTime(s.schedule_start_ns), SimTime(s.update_start_ns),
                      SimTime(s.update_start_ns + s.times.update_ns)});
    previous = &s;
  }
  if (!steps_.empty()) {
    const SimTime end = steps_.back().update_end;
    after_ = {end, end, end};
  }
}

const OutcomeExecutor::Logged& OutcomeExecutor::logged(std::uint64_t step) const {
  return step < steps_.size() ? steps_[step] : after_;
}

void OutcomeExecutor::submit(StepId, InstanceId, const StepPlan& plan, SimTime now) {
  ORRERY_CHECK(plan.repeat == 1, "replay runs single steps");
  ++submitted_;
  now_ = now;
}

bool OutcomeExecutor::host_free_first() const {
  return submitted_ - updated_ < static_cast<std::uint64_t>(pricer_.steps_in_flight()) &&
         submitted_ < steps_.size() && logged(submitted_).schedule < logged(updated_).update_begin &&
         logged(submitted_).schedule > now_;
}

SimTime OutcomeExecutor::next_event() const {
  if (submitted_ == updated_) return SimTime::never();
  if (host_free_first()) return logged(submitted_).schedule;
  // The core thread went on with the next schedule() when the log says so, unless another update came first.
  SimTime at = logged(updated_).update_end;
  const bool next_before_update =
      submitted_ < steps_.size() &&
      (updated_ + 1 == submitted_ || logged(submitted_).schedule < logged(updated_ + 1).update_begin);
  if (next_before_update && submitted_ - updated_ == 2) at = later(at, logged(submitted_).schedule);
  return later(at, now_);
}

void OutcomeExecutor::collect(SimTime now, Outcomes& outcomes) {
  const SimTime at = next_event();
  if (at > now) return;
  const bool host_free = host_free_first();
  now_ = at;
  if (host_free) {
    outcomes.host_free.push_back({InstanceId(0), at});
    return;
  }
  update_ = logged(updated_).update_end;
  outcomes.steps.push_back({.instance = InstanceId(0),
                            .first = StepId(updated_++),
                            .scheduled = 1,
                            .updates = {&update_, 1},
                            .eos = {},
                            .spoken = {},
                            .at = at,
                            .first_stamp = {},
                            .second_stamp = {},
                            .last_stamp = {}});
}

LoggedInbox::LoggedInbox(const MeasuredExperiment& experiment, const std::vector<std::int64_t>& known_at_ns,
                         const std::vector<std::size_t>& order) {
  for (std::size_t i = 0; i < order.size(); ++i) {
    const MeasuredRequest& m = experiment.requests[order[i]];
    if (known_at_ns[order[i]] < 0) continue;
    Request r;
    r.id = RequestId(i);
    r.arrival = SimTime(m.submit_ns);
    r.prompt_tokens = m.prompt_tokens;
    r.max_output_tokens = m.output_tokens;
    r.ignore_eos = true;
    r.hash_ids = m.hash_ids;
    r.hash_block_size = experiment.hash_block_size;
    requests_.emplace_back(SimTime(known_at_ns[order[i]]), std::move(r));
  }
  std::stable_sort(requests_.begin(), requests_.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
}

SimTime LoggedInbox::next() const { return at_ < requests_.size() ? requests_[at_].first : SimTime::never(); }

void LoggedInbox::poll(SimTime now, Arrivals& arrivals) {
  for (; at_ < requests_.size() && requests_[at_].first <= now; ++at_)
    arrivals.push_back(requests_[at_].second);
}

}  // namespace orrery
