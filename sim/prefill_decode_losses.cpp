// Prefill and decode apart, where instances are lost (docs/faults.md). Where legs follow one another a
// request has one of them at a time, and what it holds at a prefill instance. Where both are sent at once a
// loss takes the other one away as well, wherever it is: on its way, queued, computing, or waiting for KV. A
// leg may end later than it is given up (its step is in flight, its slots are written to); until then it is
// lost in name (Instance::withdraw), and `Request::attempt` tells legs on their way from those of the next
// attempt.
#include <algorithm>

#include "sim/prefill_decode.h"

namespace orrery {

void PrefillDecode::lose_instance(InstanceId gone, PoolRole role, std::span<const Instance::Live> here,
                                  SimTime now, std::vector<LostRequest>& lost) {
  if (handoffs_.rules.at_once) {
    lose_pairs(gone, role, here, now, lost);
  } else {
    for (const Instance::Live& live : here) release_held(live.request, now);
    for (const LostRequest& l : lost) abandon(l.request, now);
    if (role == PoolRole::prefill) lose_held_by(gone, now, lost);
  }
  const auto by_request = [](const LostRequest& a, const LostRequest& b) { return a.request < b.request; };
  std::sort(lost.begin(), lost.end(), by_request);
}

// ---------------------------------------------------------------------------------- one leg after the other

void PrefillDecode::release_held(RequestId request, SimTime now) {
  Handoff* const h = handoffs_.find(request);
  if (h == nullptr || h->given_back || h->answered.is_never()) return;
  transport_.forget(request, now);
  give_back(*h, request, now);
}

bool PrefillDecode::abandon(RequestId request, SimTime now) {
  if (handoffs_.rules.at_once && handoffs_.find(request) != nullptr)
    return give_up_both(request, now).has_value();
  release_held(request, now);
  handoffs_.drop(request);
  return true;
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

// ----------------------------------------------------------------------------------------- both legs at once

bool PrefillDecode::stale(const Request& leg) const {
  const bool one_of_two = leg.leg == RequestLeg::prefill || leg.leg == RequestLeg::decode;
  if (!handoffs_.rules.at_once || !one_of_two) return false;
  const Handoff* const h = handoffs_.find(leg.id);
  return h == nullptr || h->attempt != leg.attempt;
}

void PrefillDecode::bind(const Request& leg, InstanceId to) {
  if (stale(leg)) return;
  Handoff& h = handoffs_.at(leg.id);
  (leg.leg == RequestLeg::prefill ? h.prefill_bound : h.decode_bound) = to;
}

std::optional<LostRequest> PrefillDecode::withdraw(InstanceId at, SequenceId sequence, SimTime now) {
  const auto l = instances_[at.value()]->withdraw(sequence, now);
  if (instances_[at.value()]->idle()) wakes_.push_back(at);
  return l;
}

// SGLang (`_start_heartbeat_checker_thread`, common/conn.py of 0.5.23): the decode side asks every 5 s after
// its prefill server's health and takes the second miss for its death. Its thread's beats are taken to be
// those of the run's clock, and a server that is gone to refuse at once.
SimTime PrefillDecode::missed(SimTime now) const {
  const std::int64_t beat = handoffs_.rules.heartbeat.ns();
  return beat == 0 ? now : SimTime((now.ns() / beat + 2) * beat);
}

std::optional<LostRequest> PrefillDecode::give_up_both(RequestId request, SimTime now) {
  const Handoff h = handoffs_.at(request);
  handoffs_.drop(request);
  layers_.forget(request);
  transport_.forget(request, now);
  for (const InstanceId bound : {h.prefill_bound, h.decode_bound})
    if (!bound.is_none()) loop_.over(bound, request);
  LostRequest lost;
  lost.request = request;
  const bool prefill_lives = !h.from.is_none() && lives(h.from, h.life);
  if (prefill_lives && !h.prefill_over) {
    if (const auto l = withdraw(h.from, h.held, now)) lost = *l;
  } else if (prefill_lives && !h.answered.is_never() && h.holds_kv && !h.given_back) {
    release({.at = now, .request = request, .instance = h.from, .life = h.life, .held = h.held}, now);
  }
  if (h.over) return std::nullopt;
  if (h.sequence.is_none() || !lives(h.to, h.to_life)) return lost;
  // Its transfer has failed: the decode side is rid of it, and it was to be sent again.
  if (!instances_[h.to.value()]->holds(h.sequence, request)) return lost;
  const auto l = withdraw(h.to, h.sequence, now);
  if (!h.room_at.is_never() && h.pull_end.is_never()) {
    const Release fails{.at = prefill_lives ? now : missed(now),
                        .request = request,
                        .instance = h.to,
                        .life = h.to_life,
                        .held = h.sequence,
                        .failed = true};
    fails.at > now ? leases_.push(fails) : release(fails, now);
  }
  if (!l) return std::nullopt;  // its client has left, and it ends as such a one does
  return lost;
}

void PrefillDecode::lose_pairs(InstanceId gone, PoolRole role, std::span<const Instance::Live> here,
                               SimTime now, std::vector<LostRequest>& lost) {
  layers_.forget(gone);
  if (role == PoolRole::prefill)
    std::erase_if(lost, [&](const LostRequest& l) { return !abandon(l.request, now); });
  if (role == PoolRole::decode) {
    for (const Instance::Live& live : here) {
      if (handoffs_.find(live.request) == nullptr) continue;
      const auto prefill = give_up_both(live.request, now);
      for (LostRequest& l : lost)
        if (l.request == live.request && prefill) l.prompt_computed += prefill->prompt_computed;
    }
  }
  if (role != PoolRole::prefill) return;
  for (const auto& instance : instances_) {  // those whose prompt is computed, and not all here yet
    if (instance->role() != PoolRole::decode) continue;
    for (const Instance::Live& live : instance->live()) {
      const Handoff* const h = handoffs_.find(live.request);
      if (h == nullptr || h->from != gone || lives(h->from, h->life) || !h->pull_end.is_never()) continue;
      const std::int64_t prompt = h->request.prompt_tokens;
      if (auto l = give_up_both(live.request, now)) {
        l->prompt_computed = prompt;
        lost.push_back(*l);
      }
    }
  }
}

}  // namespace orrery
