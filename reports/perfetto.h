// trace.json: steps, requests and levels of a run in Chrome's trace-event format, which Perfetto opens.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "base/result.h"
#include "sim/results.h"

namespace orrery {

class PerfettoTrace final : public RunObserver {
 public:
  static constexpr std::size_t event_limit = 200'000;

  // Keeps what touches [begin, end).
  explicit PerfettoTrace(SimTime begin = SimTime(0), SimTime end = SimTime::never())
      : begin_(begin), end_(end) {}

  void on_step(const StepRecord& step) override;
  void on_request_event(const RequestEvent& event) override;
  void on_stay(const FleetResult::Stay& stay) override;
  bool overflowed() const { return overflowed_; }
  Status write(const std::string& path) const;

 private:
  struct Slice {  // a request's phase
    std::uint64_t request;
    InstanceId instance;
    const char* name;
    SimTime begin, end;
  };
  struct Open {
    const char* name;
    SimTime since;
  };
  void phase(const RequestEvent& e, const char* next);
  bool room(std::size_t events);

  SimTime begin_, end_;
  std::vector<StepRecord> steps_;
  std::vector<Slice> slices_;
  std::vector<FleetResult::Stay> stays_;
  std::unordered_map<std::uint64_t, Open> open_;  // by request; looked up, never iterated
  std::size_t events_ = 0;
  bool overflowed_ = false;
};

}  // namespace orrery
