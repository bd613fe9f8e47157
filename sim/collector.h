// Gathers what a run leaves behind: records in trace order, distributions, time series.
#pragma once

#include <deque>
#include <memory>

#include "sim/metrics.h"
#include "sim/results.h"

namespace orrery {

struct Slo {
  SimDuration ttft = SimDuration(INT64_MAX), tpot = SimDuration(INT64_MAX);
  bool given = false;
};

class RunCollector {
 public:
  // Requests that arrive within `warmup` of the first arrival are recorded and not measured.
  RunCollector(const Slo& slo, RecordSink* sink, SimDuration warmup = {})
      : slo_(slo), sink_(sink), warmup_(warmup) {}

  void arrived(SimTime at);
  void finished(const RequestRecord& record, SimTime at);
  // Between two tokens, the second of which came at `at`. Gaps are counted by time: nobody knows whose they
  // are.
  void gap(std::int64_t nanoseconds, std::uint64_t weight, SimTime at) {
    if (at >= measured_from_) itl_.add(nanoseconds, weight);
  }
  TimeSeriesRecorder& series() { return series_; }
  std::uint64_t ended() const { return ended_; }  // requests that need nothing more, whatever became of them

  // Fleet levels: call before and after a change at `now`; integrates what was held since the last change.
  void advance(SimTime now);
  void change_levels(std::int64_t running, std::int64_t waiting, double kv_used);

  RunResult finish(double instances);

 private:
  void measure(const RequestRecord& record, SimTime at);
  void measure_handoff(const HandoffTimes& times);
  void deliver(const RequestRecord& record);
  bool queue_grew(const TimeSeries& series) const;

  Slo slo_;
  RecordSink* sink_;
  SimDuration warmup_;
  SimTime measured_from_;  // end of the warm-up; requests that arrive before it are not measured
  bool any_measured_ = false;
  RunResult result_;
  WeightedSamples ttft_, tpot_, e2e_, queue_, itl_;
  struct HandoffSamples {
    WeightedSamples queue, prefill, wait, transfer, decode_queue, first_step;
  };
  std::unique_ptr<HandoffSamples> handoffs_;  // once there is one
  TimeSeriesRecorder series_;
  SimTime last_arrival_, level_since_;
  std::int64_t running_ = 0, waiting_ = 0;
  double kv_used_ = 0;
  bool any_arrival_ = false;
  // Records that finished before an earlier request did, by trace index from next_record_.
  struct Held {
    bool done = false;
    RequestRecord record;
  };
  std::deque<Held> held_;
  std::uint64_t next_record_ = 0, ended_ = 0;
};

}  // namespace orrery
