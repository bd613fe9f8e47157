// Clients that replay a workload: open loop (arrival times count) or closed loop (so many in flight, in trace
// order, the next one submitted when a response is complete at the client).
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "sim/inbox.h"
#include "workloads/request_source.h"

namespace orrery {

class TraceInbox final : public Inbox {
 public:
  // `input_delay`: from the client to the engine's input queue. `concurrency` 0 = open loop. `oracle`
  // receives when requests end by themselves; it must outlive the inbox.
  TraceInbox(std::unique_ptr<RequestSource> source, SimDuration input_delay, std::int64_t concurrency,
             OutputLengths& oracle);

  SimTime next() const override;
  void poll(SimTime now, Arrivals& arrivals) override;
  void on_finished(RequestId request, SimTime at) override;
  const Error* error() const override;

 private:
  void read();
  void push(Arrivals& arrivals, SimTime submitted);
  std::uint64_t stream_of(const TraceRequest& request);

  struct Stream {
    std::uint64_t id = 0;
    std::int64_t tokens = 0;
  };
  struct Submission {
    SimTime at;
    std::uint64_t after;  // the request whose end made room: orders equal times
  };

  std::unique_ptr<RequestSource> source_;
  SimDuration input_delay_;
  std::int64_t concurrency_;
  std::int64_t unstarted_;  // clients whose first request, at time 0, is still to come
  OutputLengths& oracle_;
  TraceRequest pending_;
  bool has_pending_ = false;
  std::vector<Submission> submissions_;                // closed loop: min-heap of clients that are free again
  std::unordered_map<std::uint64_t, Stream> streams_;  // by session; looked up, never iterated
  std::uint64_t next_stream_ = 1;
  Error error_;
  bool failed_ = false;
};

}  // namespace orrery
