// Clients that replay a workload: open loop (arrival times count) or closed loop (so many in flight, in trace
// order, the next one submitted when a response is complete at the client).
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "sim/image_front_end.h"
#include "sim/inbox.h"
#include "workloads/request_source.h"

namespace orrery {

class TraceInbox final : public Inbox {
 public:
  // `input_delay`: from the client to the engine's input queue. `concurrency` 0 = open loop. `oracle`
  // receives when requests end by themselves; it must outlive the inbox. `images`: what becomes of images,
  // null when the model or the engine takes none (a request that has some is then an error); it must outlive
  // the inbox too.
  TraceInbox(std::unique_ptr<RequestSource> source, SimDuration input_delay, std::int64_t concurrency,
             OutputLengths& oracle, ImageFrontEnd* images = nullptr);

  SimTime next() const override;
  void poll(SimTime now, Arrivals& arrivals) override;
  void on_finished(RequestId request, SimTime at) override;
  SimTime client_reads(SimTime update, SimDuration delay) override;
  const Error* error() const override;

 private:
  void read();
  void push(Arrivals& arrivals, SimTime submitted);
  void submit(SimTime now, Arrivals& arrivals);
  void prepare(Request request, SimTime submitted);
  void await(SimTime ready, Request request);
  SimTime next_submission() const;
  std::uint64_t stream_of(const TraceRequest& request, std::int32_t prompt_tokens, bool continues);

  struct Stream {
    std::uint64_t id = 0;
    SessionImages before;  // tokens, and images, of the session's last prompt
  };
  struct Preparing {  // its images, or those of requests before it, are being prepared
    SimTime ready;
    Request request;
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
  ImageFrontEnd* images_;
  std::vector<Preparing> preparing_;                   // min-heap by (ready, request)
  std::vector<Submission> submissions_;                // closed loop: min-heap of clients that are free again
  std::unordered_map<std::uint64_t, Stream> streams_;  // by session; looked up, never iterated
  std::uint64_t next_stream_ = 1;
  Error error_;
  bool failed_ = false;
};

}  // namespace orrery
