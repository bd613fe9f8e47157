// Runs in which instances may be lost: what it takes to begin a request again, and what its client has had of
// it before. Looked up by request, never iterated; empty, and unasked, in other runs.
#pragma once

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "sim/request.h"
#include "sim/results.h"

namespace orrery {

// A request as its instance loses it.
struct LostRequest {
  RequestId request;
  bool admitted = false, streamed = false;  // scheduled once; its client has a token
  SimTime first_scheduled, first_token;
  std::int32_t cached = 0, preemptions = 0;
  std::int64_t prompt_computed = 0;  // tokens of the prompt whose KV is gone
  std::int32_t outputs = 0;          // that its client has had
};

struct RequestHistory {
  Request request;                          // as the client sent it
  std::int32_t lives = 0;                   // that were lost
  bool admitted = false, streamed = false;  // in one of them
  SimTime first_scheduled, first_token;
  std::int32_t cached = 0, preemptions = 0, outputs = 0;
  InstanceId last = InstanceId::none();
  std::uint32_t ticket = 0;            // tells stale entries of whoever waits for it
  RequestLeg leg = RequestLeg::whole;  // while it is parked: which one
};

class RequestLedger {
 public:
  void open(const Request& request) { all_[request.id.value()].request = request; }
  RequestHistory* find(RequestId request) {
    const auto it = all_.find(request.value());
    return it == all_.end() ? nullptr : &it->second;
  }
  const RequestHistory* find(RequestId request) const {
    const auto it = all_.find(request.value());
    return it == all_.end() ? nullptr : &it->second;
  }
  RequestHistory& at(RequestId request) {
    RequestHistory* const h = find(request);
    ORRERY_CHECK(h != nullptr, "a request in flight");
    return *h;
  }
  void lost(const LostRequest& l) {
    RequestHistory& h = at(l.request);
    ++h.lives;
    h.preemptions += l.preemptions;
    if (l.admitted && !h.admitted) {
      h.first_scheduled = l.first_scheduled;
      h.cached = l.cached;
    }
    if (l.streamed && !h.streamed) h.first_token = l.first_token;
    h.admitted |= l.admitted;
    h.streamed |= l.streamed;
    h.outputs = std::max(h.outputs, l.outputs);
  }
  // Its last word: what came before is added to `record`, and it is forgotten.
  void close(RequestRecord& record) {
    const auto it = all_.find(record.request);
    ORRERY_CHECK(it != all_.end(), "a request ended twice");
    if (it->second.lives > 0) add_history(it->second, record);
    all_.erase(it);
  }
  bool empty() const { return all_.empty(); }

 private:
  // A client that has had tokens is not told them again: its first one came in an earlier life, and the parts
  // of a later life's way do not add up to that.
  static void add_history(const RequestHistory& h, RequestRecord& record) {
    record.preemptions += h.preemptions;
    if (h.admitted) {
      record.queue = h.first_scheduled - record.arrival;
      record.cached_tokens = h.cached;
    }
    if (!h.streamed) return;
    record.ttft = h.first_token - record.arrival;
    record.e2e = std::max(record.e2e, record.ttft);
    record.output_tokens = std::max(record.output_tokens, h.outputs);
    record.handoff = HandoffTimes{};
  }
  std::unordered_map<std::uint64_t, RequestHistory> all_;  // looked up, never iterated
};

}  // namespace orrery
