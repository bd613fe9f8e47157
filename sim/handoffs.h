// Prefill and decode apart: what a request brings along from its prefill leg to its decode leg, and when it
// passed from hand to hand. Looked up by request, never iterated.
#pragma once

#include <unordered_map>
#include <utility>
#include <vector>

#include "base/check.h"
#include "sim/departures.h"
#include "sim/request.h"

namespace orrery {

// How requests pass from prefill to decode instances.
struct PdRules {
  // Both legs are sent when the request arrives, and the prefill side sends what it computes; otherwise the
  // decode leg follows the prefill leg's answer and fetches.
  bool at_once = false;
  std::int32_t layers = 0;       // at once: KV leaves layer by layer, and the model has so many; 0: by chunk
  std::int32_t retries = 1;      // of a request whose transfer has failed, from the beginning
  std::int64_t local_below = 0;  // shorter prompts are not split: mixed instances, else decode ones, run them
  bool recompute_failed = false;  // the decode instance computes a prompt whose transfer has failed
  // A transfer that failed leaves blocks held on the prefill side: so long after the answer, and two thirds
  // of it after the last word of the decode side, if that counts.
  SimDuration lease;
  bool lease_extended = true;
  bool nixl = false;  // KV is fetched descriptor by descriptor (costmodel/nixl_reads.h)
  // By instance: one that decodes, with nothing to run, learns so long after a transfer's end. Empty: at
  // once.
  std::vector<SimDuration> idle_notice;
  // A decode instance finds its prefill instance gone at the second beat of so many that it misses, and keeps
  // until then what waits for KV from there; zero: at once.
  SimDuration heartbeat;
};

struct Handoff {
  Request request;            // as the client sent it
  std::uint32_t attempt = 0;  // legs sent at once carry it
  InstanceId from;            // the prefill instance,
  std::uint32_t life = 0;     // of it
  SequenceId held;            // and the sequence there whose blocks it holds
  bool holds_kv = true;       // false: preempted when its answer came; the decode instance computes it again
  InstanceId to;              // the decode instance,
  std::uint32_t to_life = 0;
  SequenceId sequence;                         // and the one that waits there
  SimTime first_scheduled = SimTime::never();  // at the prefill instance
  SimTime answered = SimTime::never();         // its answer is back at the proxy
  SimTime pull_begin = SimTime::never(), pull_end = SimTime::never();
  std::int32_t cached = 0, preemptions = 0;
  // KV that is sent: parts computed, and parts sent, of `parts`; `blocks` in all.
  std::int64_t blocks = 0, computed = 0, sent = 0, parts = 0;
  std::int64_t skipped = 0;  // parts that the decode side has already; those above count without them
  SimTime computed_at = SimTime::never();  // the last part was
  SimTime room_at = SimTime::never();      // the decode instance had blocks for it
  bool said_eos = false;                   // the prefill instance's token is the answer's last one
  std::int32_t failures = 0;               // transfers of this request that failed
  bool failed = false;                     // the present one has
  bool again = false;                      // to be sent again when its prefill leg is over
  bool prefill_over = false;               // answered, or ended without an answer
  bool given_back = false;                 // the prefill instance need not hold anything any more
  bool over = false;                       // its decode leg has ended, or will never begin
  // Sent at once, where instances may be lost: where a leg that has not come yet was sent.
  InstanceId prefill_bound = InstanceId::none(), decode_bound = InstanceId::none();
};

class Handoffs {
 public:
  PdRules rules;

  Handoff& open(Request request) {
    const std::uint64_t id = request.id.value();
    Handoff& h = all_[id];
    h = Handoff{};
    h.request = std::move(request);
    return h;
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
    if (find(request) == nullptr) return;  // it was never split
    at(request).over = true;
    drop_if_done(request);
  }
  const Handoff* find(RequestId request) const {
    const auto it = all_.find(request.value());
    return it == all_.end() ? nullptr : &it->second;
  }
  bool empty() const { return all_.empty(); }
  // One of its legs has come to an end that the other one may have to hear of (PrefillDecode::settle).
  void settle(RequestId request) { settling_.push_back(request); }
  std::vector<RequestId> take_settling() { return std::exchange(settling_, {}); }
  bool settled() const { return settling_.empty(); }

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
  std::vector<RequestId> settling_;
};

}  // namespace orrery
