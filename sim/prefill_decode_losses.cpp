// Prefill and decode apart, where instances are lost (docs/faults.md). Legs follow one another here: a
// request has one of them at a time, and what it holds at a prefill instance.
#include <algorithm>

#include "sim/prefill_decode.h"

namespace orrery {

void PrefillDecode::release_held(RequestId request, SimTime now) {
  Handoff* const h = handoffs_.find(request);
  if (h == nullptr || h->given_back || h->answered.is_never()) return;
  transport_.forget(request, now);
  give_back(*h, request, now);
}

void PrefillDecode::abandon(RequestId request, SimTime now) {
  release_held(request, now);
  handoffs_.drop(request);
}

void PrefillDecode::lose_held_by(InstanceId holder, SimTime now, std::vector<LostRequest>& lost) {
  for (std::size_t k = 0; k < instances_.size(); ++k) {
    Instance& instance = *instances_[k];
    if (instance.role() != PoolRole::decode) continue;
    for (const Instance::Live& live : instance.live()) {
      const Handoff* const h = handoffs_.find(live.request);
      if (h == nullptr || h->given_back || h->from != holder) continue;
      transport_.forget(live.request, now);
      if (!h->pull_begin.is_never()) instance.on_remote_end(live.sequence, live.request, false, now);
      drop_decode_leg(InstanceId(static_cast<std::uint32_t>(k)), live, now, lost);
    }
  }
  const auto by_request = [](const LostRequest& a, const LostRequest& b) { return a.request < b.request; };
  std::sort(lost.begin(), lost.end(), by_request);
}

void PrefillDecode::drop_decode_leg(InstanceId at, const Instance::Live& live, SimTime now,
                                    std::vector<LostRequest>& lost) {
  const auto l = instances_[at.value()]->withdraw(live.sequence, now);
  if (instances_[at.value()]->idle()) wakes_.push_back(at);
  handoffs_.given_back(live.request);
  if (!l) return;
  lost.push_back(*l);
  handoffs_.drop(live.request);
}

InstanceId PrefillDecode::lost_holder(const Request& leg) {
  if (leg.leg != RequestLeg::decode) return InstanceId::none();
  const Handoff* const h = handoffs_.find(leg.id);
  if (h == nullptr || h->from.is_none() || lives(h->from, h->life)) return InstanceId::none();
  const InstanceId from = h->from;
  handoffs_.drop(leg.id);
  return from;
}

}  // namespace orrery
