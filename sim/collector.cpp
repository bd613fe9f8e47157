#include "sim/collector.h"

#include <algorithm>

#include "base/check.h"

namespace orrery {

void RunCollector::arrived(SimTime at) {
  if (!any_arrival_) {
    result_.first_arrival = at;
    level_since_ = at;
    measured_from_ = warmup_ > SimDuration() ? at + warmup_ : SimTime();
  }
  any_arrival_ = true;
  result_.first_arrival = earlier(result_.first_arrival, at);
  last_arrival_ = later(last_arrival_, at);
  if (at >= measured_from_) {
    result_.measured_from = any_measured_ ? earlier(result_.measured_from, at) : at;
    any_measured_ = true;
  }
  series_.count(TimeSeriesRecorder::arrivals, at, 1);
}

void RunCollector::finished(const RequestRecord& record, SimTime at) {
  ++ended_;
  if (record.arrival < measured_from_) {
    ++result_.warmup_requests;
    if (record.status == RequestStatus::completed) series_.count(TimeSeriesRecorder::finished, at, 1);
  } else {
    measure(record, at);
  }
  if (sink_ != nullptr) deliver(record);
}

void RunCollector::measure(const RequestRecord& record, SimTime at) {
  switch (record.status) {
    case RequestStatus::completed: ++result_.completed; break;
    case RequestStatus::failed: ++result_.failed; break;
    case RequestStatus::cancelled: ++result_.cancelled; break;
    case RequestStatus::timed_out: ++result_.timed_out; break;
    case RequestStatus::rejected: ++result_.rejected; break;
  }
  if (record.status == RequestStatus::completed) {
    result_.last_finish = later(result_.last_finish, at);
    result_.input_tokens += static_cast<std::uint64_t>(record.prompt_tokens);
    result_.output_tokens += static_cast<std::uint64_t>(record.output_tokens);
    result_.cached_tokens += static_cast<std::uint64_t>(record.cached_tokens);
    ttft_.add(record.ttft.ns());
    e2e_.add(record.e2e.ns());
    queue_.add(record.queue.ns());
    if (record.handoff.apart) measure_handoff(record.handoff);
    const std::int64_t tpot = record.tpot_ns();
    if (tpot >= 0) tpot_.add(tpot);
    if (slo_.given && record.ttft <= slo_.ttft && tpot <= slo_.tpot.ns()) {
      ++result_.slo_met;
      result_.slo_output_tokens += static_cast<std::uint64_t>(record.output_tokens);
    }
    series_.count(TimeSeriesRecorder::finished, at, 1);
  }
}

void RunCollector::measure_handoff(const HandoffTimes& times) {
  if (handoffs_ == nullptr) handoffs_ = std::make_unique<HandoffSamples>();
  handoffs_->queue.add(times.queue.ns());
  handoffs_->prefill.add(times.prefill.ns());
  handoffs_->wait.add(times.wait.ns());
  handoffs_->transfer.add(times.transfer.ns());
  handoffs_->decode_queue.add(times.decode_queue.ns());
  handoffs_->first_step.add(times.first_step.ns());
}

// Sinks see trace order, each index once. What finished early waits; the window is the span of requests in
// flight.
void RunCollector::deliver(const RequestRecord& record) {
  ORRERY_CHECK(record.request >= next_record_, "a request ended twice");
  const std::uint64_t at = record.request - next_record_;
  if (at >= held_.size()) held_.resize(at + 1);
  ORRERY_CHECK(!held_[at].done, "a request ended twice");
  held_[at] = {true, record};
  while (!held_.empty() && held_.front().done) {
    sink_->on_request(held_.front().record);
    held_.pop_front();
    ++next_record_;
  }
}

void RunCollector::advance(SimTime now) {
  if (now <= level_since_) return;
  series_.hold(TimeSeriesRecorder::running, level_since_, now, static_cast<double>(running_));
  series_.hold(TimeSeriesRecorder::waiting, level_since_, now, static_cast<double>(waiting_));
  series_.hold(TimeSeriesRecorder::kv_used, level_since_, now, kv_used_);
  level_since_ = now;
}

void RunCollector::change_levels(std::int64_t running, std::int64_t waiting, double kv_used) {
  running_ += running;
  waiting_ += waiting;
  kv_used_ += kv_used;
}

// The mean queue over the last quarter of the arrivals against the second quarter: a fleet that keeps up has
// a queue without a trend; one that does not has a queue that grows with time.
bool RunCollector::queue_grew(const TimeSeries& series) const {
  const std::int64_t span = (last_arrival_ - series.start).ns();
  const auto bins =
      std::min(series.waiting.size(), static_cast<std::size_t>(std::max<std::int64_t>(0, span) /
                                                               std::max<std::int64_t>(1, series.width.ns())));
  if (bins < 8) return false;
  const auto mean = [&](std::size_t from, std::size_t to) {
    double sum = 0;
    for (std::size_t i = from; i < to; ++i) sum += series.waiting[i];
    return sum / static_cast<double>(to - from);
  };
  const double second = mean(bins / 4, bins / 2), last = mean(bins - bins / 4, bins);
  return last > 4 && last > 1.5 * second;
}

RunResult RunCollector::finish(double instances) {
  ORRERY_CHECK(held_.empty(), "every request ends");
  result_.ttft = ttft_.distribution();
  result_.tpot = tpot_.distribution();
  result_.itl = itl_.distribution();
  result_.e2e = e2e_.distribution();
  result_.queue = queue_.distribution();
  if (handoffs_ != nullptr) {
    KvTransferResult& t = result_.transfers;
    t.on = true;
    t.queue = handoffs_->queue.distribution();
    t.prefill = handoffs_->prefill.distribution();
    t.wait = handoffs_->wait.distribution();
    t.transfer = handoffs_->transfer.distribution();
    t.decode_queue = handoffs_->decode_queue.distribution();
    t.first_step = handoffs_->first_step.distribution();
  }
  result_.has_slo = slo_.given;
  result_.series =
      series_.series(result_.first_arrival, later(result_.last_finish, last_arrival_), instances);
  result_.saturated = queue_grew(result_.series);
  return std::move(result_);
}

}  // namespace orrery
