// Prefill and decode apart: what a request brings along from its prefill leg to its decode leg, and when it
// passed from hand to hand. Looked up by request, never iterated.
#pragma once

#include <unordered_map>
#include <utility>

#include "base/check.h"
#include "sim/departures.h"
#include "sim/request.h"

namespace orrery {

struct Handoff {
  Request request;          // as the client sent it
  InstanceId from;          // the prefill instance,
  std::uint32_t life = 0;   // of it, as it answered
  SequenceId held;          // and the sequence there whose blocks it holds
  bool holds_kv = true;     // false: preempted when its answer came; the decode instance computes it again
  InstanceId to;            // the decode instance,
  SequenceId sequence;      // and the one that waits there
  SimTime first_scheduled;  // at the prefill instance
  SimTime answered;         // its answer is back at the proxy
  SimTime pull_begin = SimTime::never(), pull_end = SimTime::never();
  std::int32_t cached = 0, preemptions = 0;
  bool given_back = false;  // the prefill instance need not hold anything any more
  bool over = false;        // its decode leg has ended, or will never begin
};

class Handoffs {
 public:
  void open(Request request) {
    const std::uint64_t id = request.id.value();
    Handoff& h = all_[id];
    h.request = std::move(request);
  }
  Handoff* find(RequestId request) {
    const auto it = all_.find(request.value());
    return it == all_.end() ? nullptr : &it->second;
  }
  Handoff& at(RequestId request) {
    Handoff* const h = find(request);
    ORRERY_CHECK(h != nullptr, "a request in flight between two legs");
    return *h;
  }
  // Its prefill leg has been answered: at `answered`, as it says, its decode leg begins.
  void answer(RequestId request) { answers_.push({at(request).answered, request}); }
  SimTime next_answer() const { return answers_.next(); }
  RequestId pop_answer() { return answers_.pop().request; }
  void drop(RequestId request) { all_.erase(request.value()); }  // its prefill leg ended without an answer
  // The prefill instance is done with it, or the decode leg is; forgotten when both are.
  void given_back(RequestId request) {
    at(request).given_back = true;
    drop_if_done(request);
  }
  void over(RequestId request) {
    at(request).over = true;
    drop_if_done(request);
  }
  bool empty() const { return all_.empty(); }

 private:
  struct Answer {
    SimTime at;
    RequestId request;
    RequestId request_id() const { return request; }
  };
  void drop_if_done(RequestId request) {
    const Handoff& h = at(request);
    if (h.given_back && h.over) all_.erase(request.value());
  }
  std::unordered_map<std::uint64_t, Handoff> all_;  // looked up, never iterated
  TimedHeap<Answer> answers_;
};

}  // namespace orrery
