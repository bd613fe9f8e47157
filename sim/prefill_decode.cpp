#include "sim/prefill_decode.h"

#include <algorithm>

namespace orrery {

PrefillDecode::PrefillDecode(const PdRules& rules, KvTransport& transport, Executor& executor,
                             const Instances& instances, Loop loop)
    : transport_(transport), executor_(executor), instances_(instances), loop_(std::move(loop)),
      layers_(rules.layers) {
  handoffs_.rules = rules;
}

SimTime PrefillDecode::next_event() {
  SimTime due = earlier(handoffs_.next_answer(), transport_.next_event());
  if (handoffs_.rules.layers > 0) due = earlier(due, layers_.next(executor_));
  return earlier(due, earlier(leases_.next(), notices_.next()));
}

// ------------------------------------------------------------------------------------------------------ legs

void PrefillDecode::arrived(const Request& request, SimTime now) {
  if (request.prompt_tokens < handoffs_.rules.local_below)
    return loop_.dispatch(request, loop_.has_mixed ? PoolRole::mixed : PoolRole::decode, now, false);
  Request leg = begin(request);
  loop_.dispatch(leg, PoolRole::prefill, now, false);
  if (!handoffs_.rules.at_once || stale(leg)) return;
  leg.leg = RequestLeg::decode;
  loop_.dispatch(leg, PoolRole::decode, now, false);
}

Request PrefillDecode::begin(const Request& request) {
  Request leg = request;
  leg.leg = RequestLeg::prefill;
  leg.attempt = ++attempts_;
  handoffs_.open(request).attempt = leg.attempt;
  return leg;
}

void PrefillDecode::entered(const Request& request, InstanceId instance, SequenceId sequence) {
  if (request.leg == RequestLeg::decode && handoffs_.rules.at_once) {
    if (Handoff* const h = handoffs_.find(request.id)) {
      h->to = instance;
      h->to_life = (*loop_.lives)[instance.value()];
      h->sequence = sequence;
    }
  }
  if (request.leg != RequestLeg::prefill) return;
  Handoff& h = handoffs_.at(request.id);
  h.from = instance;
  h.life = (*loop_.lives)[instance.value()];
  h.held = sequence;
  if (!h.room_at.is_never() && instances_[instance.value()]->on_room(sequence)) wakes_.push_back(instance);
  if (h.over) handoffs_.settle(request.id);  // turned away on the decode side already
}

void PrefillDecode::take_answers(SimTime now) {
  while (handoffs_.next_answer() <= now) {
    Handoff& h = handoffs_.at(handoffs_.pop_answer());
    Request leg = handoffs_.rules.retries > h.failures ? h.request : std::move(h.request);
    leg.leg = h.holds_kv ? RequestLeg::decode : RequestLeg::whole;
    h.given_back = !h.holds_kv;
    loop_.dispatch(leg, PoolRole::decode, now, true);
  }
}

void PrefillDecode::forsake(RequestId request, SimTime now) {
  Handoff* const h = handoffs_.find(request);
  if (h == nullptr || h->given_back) return;
  if (handoffs_.rules.at_once) return handoffs_.settle(request);
  give_back(*h, request, now);
}

// ---------------------------------------------------------------------------------------------- transfers

void PrefillDecode::take_work(InstanceId id, SimTime now) {
  Instance& instance = *instances_[id.value()];
  const std::span<const PullWork> pulls = instance.take_pulls();
  if (handoffs_.rules.at_once) {
    for (const PullWork& work : pulls) make_room_known(work, id, now);
  } else if (!pulls.empty()) {
    begin_pulls(pulls, id, now);
  }
  for (const SendWork& work : instance.take_sends()) {
    Handoff* const h = handoffs_.find(work.request);
    if (h == nullptr || h->from != id || h->held != work.sequence) continue;  // of a leg that was withdrawn
    if (handoffs_.rules.layers > 0) {
      layers_.add(id, work.step, work.request);
    } else {
      computed(*h, work.request, work.parts, work.of, now);
    }
  }
}

// Every rank's launcher asks for what is its own, one after the other; a step of all waits for the last of
// them.
void PrefillDecode::begin_pulls(std::span<const PullWork> pulls, InstanceId to, SimTime now) {
  pulls_.clear();
  posting_.clear();
  SimDuration most(0);
  for (const PullWork& work : pulls) {
    // Word that nothing is wanted, of a client that left as the prefill instance was lost: nobody holds it.
    const Handoff* const known = handoffs_.find(work.request);
    if (work.sequence.is_none() && (known == nullptr || known->given_back)) continue;
    const Handoff& h = handoffs_.at(work.request);
    const std::int32_t to_rank = work.sequence.is_none() ? 0 : instances_[to.value()]->rank_of(work.sequence);
    pulls_.push_back({.request = work.request,
                      .from = h.from,
                      .to = to,
                      .blocks = work.blocks,
                      .posted_from = now,
                      .from_rank = instances_[h.from.value()]->rank_of(h.held),
                      .to_rank = to_rank,
                      .sequence = work.sequence});
    posting_.resize(std::max(posting_.size(), static_cast<std::size_t>(to_rank) + 1));
    SimDuration& rank = posting_[static_cast<std::size_t>(to_rank)];
    pulls_.back().posted_from = now + rank;  // its place among its rank's
    rank = rank + transport_.posting(pulls_.back());
    most = std::max(most, rank);
  }
  const SimDuration wait =
      most > SimDuration(0) ? executor_.hold_launch(to, most, now) - now : SimDuration(0);
  std::size_t next = 0;
  for (const PullWork& work : pulls) {
    if (next == pulls_.size() || pulls_[next].request != work.request) continue;
    KvPull& pull = pulls_[next++];
    Handoff& h = handoffs_.at(work.request);
    h.pull_begin = now;
    h.to = to;
    h.to_life = (*loop_.lives)[to.value()];
    h.sequence = work.sequence;
    instances_[to.value()]->observe_pull(work, now);
    pull.posted_from = pull.posted_from + wait;
    transport_.begin(pull, now);
  }
}

// The decode instance has blocks for what will be sent, or wants nothing any more.
void PrefillDecode::make_room_known(const PullWork& work, InstanceId to, SimTime now) {
  Handoff* const h = handoffs_.find(work.request);
  if (work.sequence.is_none() || h == nullptr) return handoffs_.settle(work.request);
  h->to = to;
  h->to_life = (*loop_.lives)[to.value()];
  h->sequence = work.sequence;
  h->blocks = work.blocks;
  h->skipped = work.skipped;
  h->room_at = now;
  instances_[to.value()]->observe_pull(work, now);
  if (h->prefill_over) handoffs_.settle(work.request);
  const bool waits = !h->prefill_over && !h->held.is_none();
  if (waits && instances_[h->from.value()]->on_room(h->held)) wakes_.push_back(h->from);
  flush(*h, work.request, now);
}

void PrefillDecode::take_layers(SimTime now) {
  if (handoffs_.rules.layers == 0) return;
  layers_.take(now, executor_, [&](RequestId request, std::int64_t done) {
    if (Handoff* const h = handoffs_.find(request)) computed(*h, request, done, handoffs_.rules.layers, now);
  });
}

void PrefillDecode::computed(Handoff& h, RequestId request, std::int64_t parts, std::int64_t of,
                             SimTime now) {
  // Nothing that is wanted may be left; the end is sent all the same.
  const std::int64_t wanted = std::max<std::int64_t>(of - h.skipped, 1);
  const std::int64_t done = parts == of ? wanted : std::min(parts - h.skipped, wanted - 1);
  if (h.failed || done <= h.computed) return;
  h.parts = wanted;
  h.computed = done;
  if (parts == of) h.computed_at = now;
  flush(h, request, now);
}

void PrefillDecode::flush(Handoff& h, RequestId request, SimTime now) {
  if (h.room_at.is_never() || h.failed || h.sent == h.computed) return;
  if (h.pull_begin.is_never()) h.pull_begin = now;
  transport_.send({.request = request,
                   .from = h.from,
                   .to = h.to,
                   .blocks = h.blocks,
                   .first = h.sent,
                   .last = h.computed,
                   .of = h.parts,
                   .from_rank = instances_[h.from.value()]->rank_of(h.held),
                   .to_rank = instances_[h.to.value()]->rank_of(h.sequence),
                   .sequence = h.sequence},
                  now);
  h.sent = h.computed;
}

void PrefillDecode::take_ended(SimTime now) {
  ended_.clear();
  transport_.collect(now, ended_);
  for (const KvPullDone& done : ended_) {
    if (loop_.fetched && loop_.fetched(done, now)) continue;
    end_transfer(handoffs_.at(done.request), done.request, done.failed, done.at, now);
  }
  while (notices_.next() <= now) {
    const Notice notice = notices_.pop();
    const Handoff* const h = handoffs_.find(notice.request);
    const bool waits = h != nullptr && !h->over && h->to == notice.instance && h->sequence == notice.sequence;
    if (waits && lives(notice.instance, notice.life)) tell_decode(notice, now);
  }
  while (leases_.next() <= now) {
    const Release r = leases_.pop();
    release(r, now);
  }
}

void PrefillDecode::end_transfer(Handoff& h, RequestId request, bool failed, SimTime at, SimTime now) {
  h.pull_end = at;
  h.failed = failed;
  h.failures += failed ? 1 : 0;
  failed_ += failed ? 1 : 0;
  if (!h.sequence.is_none() && !h.over) {
    const std::vector<SimDuration>& notices = handoffs_.rules.idle_notice;
    const SimDuration delay = notices.empty() ? SimDuration(0) : notices[h.to.value()];
    const Notice notice{now + delay, request, h.to, h.to_life, h.sequence, failed, h.said_eos};
    if (delay > SimDuration(0) && instances_[h.to.value()]->idle()) {
      notices_.push(notice);
    } else {
      tell_decode(notice, now);
    }
  }
  if (handoffs_.rules.at_once) return handoffs_.settle(request);  // the prefill leg may not be over
  if (!h.given_back) give_back(h, request, now);
}

void PrefillDecode::tell_decode(const Notice& n, SimTime now) {
  Instance& decode = *instances_[n.instance.value()];
  decode.observe_pull_end(n.request, n.failed, now);
  if (n.failed ? decode.on_remote_failure(n.sequence, n.request, now)
               : decode.on_remote_end(n.sequence, n.request, n.said_eos, now))
    wakes_.push_back(n.instance);
}

// The prefill instance need not hold anything for it any more. Of a transfer that failed it is not told:
// where the engine has a lease, that has to run out.
void PrefillDecode::give_back(Handoff& h, RequestId request, SimTime now) {
  Release r{.at = now, .request = request, .instance = h.from, .life = h.life, .held = h.held};
  if (h.failed && handoffs_.rules.lease > SimDuration(0)) {
    const SimDuration lease = handoffs_.rules.lease;
    r.at = h.answered + lease;
    if (handoffs_.rules.lease_extended) r.at = later(r.at, now + SimDuration(lease.ns() * 2 / 3));
    leases_.push(r);
  } else {
    release(r, now);
  }
  handoffs_.given_back(request);
}

void PrefillDecode::release(const Release& r, SimTime now) {
  if (!lives(r.instance, r.life)) return;  // lost, and with it what it held
  Instance& instance = *instances_[r.instance.value()];
  if (r.failed ? instance.on_remote_failure(r.held, r.request, now)
               : instance.on_remote_end(r.held, r.request, false, now))
    wakes_.push_back(r.instance);
}

// ---------------------------------------------------------------------------------------------- both legs

void PrefillDecode::settle(SimTime now) {
  while (!handoffs_.settled()) {
    for (const RequestId request : handoffs_.take_settling()) settle_pair(request, now);
  }
  for (const InstanceId id : wakes_) loop_.mark(id);
  wakes_.clear();
}

void PrefillDecode::settle_pair(RequestId request, SimTime now) {
  Handoff* const h = handoffs_.find(request);
  if (h == nullptr) return;
  if (!h->prefill_over) {
    // The decode side has turned it away: nobody will make room for what the prefill leg computes.
    if (handoffs_.rules.at_once && h->over && h->room_at.is_never() && !h->held.is_none()) abandon(*h, now);
    return;
  }
  const bool has_kv = !h->answered.is_never();
  const bool transfer_over = !h->pull_end.is_never();
  if (!has_kv && !h->room_at.is_never() && !transfer_over) {  // nothing more will ever be sent
    transport_.forget(request, now);
    end_transfer(*h, request, true, now, now);
  }
  if (h->again) {
    if (!h->given_back && has_kv && h->holds_kv) give_back(*h, request, now);
    return send_again(request, now);
  }
  if (h->given_back) return;
  if (!handoffs_.rules.at_once) {  // who fetches gives back, unless it ended before it could
    if (h->over && h->pull_begin.is_never()) give_back(*h, request, now);
    return;
  }
  if (!has_kv || !h->holds_kv) return handoffs_.given_back(request);
  if (transfer_over || (h->over && h->room_at.is_never())) give_back(*h, request, now);
}

void PrefillDecode::abandon(const Handoff& h, SimTime now) {
  if (!lives(h.from, h.life)) return;
  if (instances_[h.from.value()]->abandon(h.held, now)) wakes_.push_back(h.from);
}

// From the beginning, as a proxy does that was answered with an error.
void PrefillDecode::send_again(RequestId request, SimTime now) {
  Handoff& h = handoffs_.at(request);
  const std::int32_t failures = h.failures;
  const Request again = std::move(h.request);
  handoffs_.drop(request);
  ++retried_;
  arrived(again, now);
  if (Handoff* const next = handoffs_.find(request)) next->failures = failures;
}

}  // namespace orrery
