#include "sim/fleet.h"

#include <algorithm>
#include <tuple>

namespace orrery {

const char* to_string(InstanceState state) {
  switch (state) {
    case InstanceState::up: return "up";
    case InstanceState::draining: return "draining";
    case InstanceState::failed: return "failed";
    case InstanceState::starting: return "starting";
    case InstanceState::off: return "off";
  }
  return "up";
}

Fleet::Fleet(const FleetPlan& plan, std::vector<FleetPool> pools, FleetHost& host, std::uint64_t seed)
    : plan_(plan), host_(host) {
  ORRERY_CHECK(plan.pools.size() == pools.size(), "a plan for every pool");
  for (std::size_t p = 0; p < pools.size(); ++p) {
    pools_.push_back({.at = std::move(pools[p]), .plan = plan.pools[p]});
    Pool& pool = pools_.back();
    for (std::size_t i = 0; i < pool.at.instances; ++i) {
      members_.emplace_back();
      members_.back().pool = p;
    }
    const auto index = static_cast<std::uint32_t>(p);
    if (pool.plan.rolls) push({.at = pool.plan.update_at, .kind = Kind::update, .index = index, .life = 0});
    if (pool.plan.scale.on) pool.tick = SimTime(0) + pool.plan.scale.interval;
  }
  for (std::size_t f = 0; f < plan.faults.size(); ++f) {
    const FaultPlan& fault = plan.faults[f];
    faults_.push_back({.stream = RandomStream(seed, RandomPurpose::faults, fault.entity), .next = fault.at});
    Fault& own = faults_.back();
    if (fault.mtbf_s > 0) own.next = SimTime(0) + duration_from_seconds(own.stream.exponential(fault.mtbf_s));
    const auto index = static_cast<std::uint32_t>(f);
    push({.at = own.next, .kind = Kind::fault_begin, .index = index, .life = 0});
    for (const GpuPlace& gpu : fault.gpus) {
      std::vector<std::uint32_t>& of = members_[gpu.instance.value()].faults;
      if (of.empty() || of.back() != index) of.push_back(index);
    }
  }
}

void Fleet::start() {
  for (const Pool& pool : pools_) {
    if (!pool.plan.scale.on) continue;
    for (auto i = static_cast<std::size_t>(pool.plan.scale.at_first); i < pool.at.instances; ++i) {
      members_[pool.at.first + i].state = InstanceState::off;
      host_.open_to_router(id(pool.at.first + i), false);
    }
  }
}

// ---------------------------------------------------------------------------------------------------- events

namespace {
constexpr auto later_first = [](const auto& a, const auto& b) {
  return std::tuple(a.at, a.kind, a.index, a.life) > std::tuple(b.at, b.kind, b.index, b.life);
};
}  // namespace

void Fleet::push(Event event) {
  if (event.at.is_never()) return;
  events_.push_back(event);
  std::push_heap(events_.begin(), events_.end(), later_first);
}

SimTime Fleet::next() {
  while (!wakes_.empty()) {  // of requests that have gone on since
    const RequestHistory* const h = ledger_.find(wakes_.front().request);
    if (h != nullptr && h->ticket == wakes_.front().ticket) break;
    wakes_.pop();
  }
  SimTime first = events_.empty() ? SimTime::never() : events_.front().at;
  first = earlier(first, wakes_.next());
  for (const Pool& pool : pools_) first = earlier(first, pool.tick);
  return first;
}

SimTime Fleet::next_fault(InstanceId instance) const {
  SimTime first = SimTime::never();
  for (const std::uint32_t f : members_[instance.value()].faults) first = earlier(first, faults_[f].next);
  return first;
}

void Fleet::note(Kind kind, std::uint64_t index, SimTime now) {
  digest_.add(index * 8 + static_cast<std::uint64_t>(kind));
  digest_.add(now.ns());
}

void Fleet::change(SimTime now) {
  while (!events_.empty() && events_.front().at <= now) {
    std::pop_heap(events_.begin(), events_.end(), later_first);
    const Event e = events_.back();
    events_.pop_back();
    switch (e.kind) {
      case Kind::fault_end: end_fault(e.index, now); break;
      case Kind::fault_begin: begin_fault(e.index, now); break;
      case Kind::noticed:
        if (members_[e.index].noticed != e.at) break;  // up again, or lost again
        members_[e.index].noticed = SimTime::never();
        host_.open_to_router(id(e.index), false);
        break;
      case Kind::ready:
        if (members_[e.index].life == e.life) ready(e.index, now);
        break;
      case Kind::update: roll_on(e.index, pools_[e.index].at.first, now); break;
    }
  }
  while (wakes_.next() <= now) {
    const Wake w = wakes_.pop();
    const RequestHistory* const h = ledger_.find(w.request);
    if (h != nullptr && h->ticket == w.ticket) wake(w.request, now);
  }
}

// ---------------------------------------------------------------------------------------------------- faults

void Fleet::begin_fault(std::uint32_t index, SimTime now) {
  const FaultPlan& plan = plan_.faults[index];
  Fault& fault = faults_[index];
  fault.active = true;
  fault.next = plan.for_good() ? SimTime::never() : now + plan.lasts;
  push({.at = fault.next, .kind = Kind::fault_end, .index = index, .life = 0});
  ++result_.faults;
  note(Kind::fault_begin, index, now);
  apply_speed(index, now);
  if (!plan.failure()) return;
  for (const GpuPlace& gpu : plan.gpus) {
    const std::size_t i = gpu.instance.value();
    if (++members_[i].outages == 1 && members_[i].state != InstanceState::off) break_down(i, now);
  }
  despair(now);
}

void Fleet::end_fault(std::uint32_t index, SimTime now) {
  const FaultPlan& plan = plan_.faults[index];
  Fault& fault = faults_[index];
  fault.active = false;
  fault.next = SimTime::never();
  if (plan.mtbf_s > 0) {
    fault.next = now + duration_from_seconds(fault.stream.exponential(plan.mtbf_s));
    push({.at = fault.next, .kind = Kind::fault_begin, .index = index, .life = 0});
  }
  note(Kind::fault_end, index, now);
  apply_speed(index, now);
  if (!plan.failure()) return;
  for (const GpuPlace& gpu : plan.gpus) {
    const std::size_t i = gpu.instance.value();
    if (--members_[i].outages == 0) repaired(i, now);
  }
  despair(now);  // weights may still be stuck behind another link
}

// Of several faults on one GPU or link the worst counts.
void Fleet::apply_speed(std::uint32_t index, SimTime now) {
  const auto worst = [&](auto hits) {
    double factor = 1;
    for (std::size_t f = 0; f < faults_.size(); ++f)
      if (faults_[f].active && hits(plan_.faults[f])) factor = std::min(factor, plan_.faults[f].factor);
    return factor;
  };
  const FaultPlan& plan = plan_.faults[index];
  for (const GpuPlace& gpu : plan.gpus) {
    if (plan.failure()) break;
    const double factor = worst([&](const FaultPlan& other) {
      return !other.failure() && std::any_of(other.gpus.begin(), other.gpus.end(), [&](const GpuPlace& g) {
        return g.instance == gpu.instance && g.gpu == gpu.gpu;
      });
    });
    host_.set_speed(gpu, factor);
  }
  for (const std::uint32_t link : plan.links) {
    const double factor = worst([&](const FaultPlan& other) {
      return std::find(other.links.begin(), other.links.end(), link) != other.links.end();
    });
    host_.set_link(link, factor, now);
  }
  if (!plan.links.empty()) seek_peers(now);
}

void Fleet::break_down(std::size_t i, SimTime now) {
  Member& m = members_[i];
  ++result_.instances_lost;
  const bool was_open = m.state == InstanceState::up;
  if (m.state == InstanceState::draining) std::erase(draining_, i);
  const bool to_be_off = m.state == InstanceState::draining && m.then_off;
  const std::vector<LostRequest> lost = host_.take_down(id(i), now);
  enter(i, to_be_off ? InstanceState::off : InstanceState::failed, now);
  const SimTime notice = now + plan_.recovery.detection;
  for (const LostRequest& l : lost) lose(l, id(i), now, notice);
  if (was_open) {
    m.noticed = notice;
    push({.at = notice, .kind = Kind::noticed, .index = static_cast<std::uint32_t>(i), .life = m.life});
  }
  Pool& pool = pools_[m.pool];
  if (pool.rolling == i && !comes_back(m)) roll_on(m.pool, i + 1, now);
}

void Fleet::repaired(std::size_t i, SimTime now) {
  if (members_[i].state == InstanceState::failed) start_up(i, now);
}

// -------------------------------------------------------------------------------------------- instances

void Fleet::enter(std::size_t i, InstanceState state, SimTime now) {
  Member& m = members_[i];
  if (m.state != InstanceState::up && now > m.since) result_.stays.push_back({id(i), m.state, m.since, now});
  digest_.add((std::uint64_t{i} << 8) + 128 + static_cast<std::uint64_t>(state));
  digest_.add(now.ns());
  ++m.life;
  m.state = state;
  m.since = now;
  end_loads(i, now);
}

void Fleet::start_up(std::size_t i, SimTime now) {
  enter(i, InstanceState::starting, now);
  ++result_.restarts;
  const PoolPlan& plan = pools_[members_[i].pool].plan;
  if (!plan.loads) return ready_in(i, plan.start, now);
  begin_load(i, now);
  despair(now);  // when they are stuck at once
}

void Fleet::ready(std::size_t i, SimTime now) {
  enter(i, InstanceState::up, now);
  members_[i].noticed = SimTime::never();
  host_.open_to_router(id(i), true);
  const std::size_t p = members_[i].pool;
  unpark(pools_[p].at.role, now);
  seek_peers(now);
  if (pools_[p].rolling != i) return;
  ++result_.updated;
  roll_on(p, i + 1, now);
}

void Fleet::drain(std::size_t i, bool then_off, SimTime now) {
  enter(i, InstanceState::draining, now);
  members_[i].then_off = then_off;
  host_.open_to_router(id(i), false);
  draining_.push_back(i);
  std::sort(draining_.begin(), draining_.end());
}

void Fleet::switch_off(std::size_t i, SimTime now) {
  host_.take_down(id(i), now);
  enter(i, InstanceState::off, now);
  host_.open_to_router(id(i), false);
  despair(now);  // who loaded from it may be stuck
}

// The next instance of a rolling update that runs the old version: those that are broken, off or starting
// will come with the new one.
void Fleet::roll_on(std::size_t p, std::size_t from, SimTime now) {
  Pool& pool = pools_[p];
  pool.rolling = no_member;
  for (std::size_t i = from; i < pool.at.first + pool.at.instances; ++i) {
    if (members_[i].state != InstanceState::up) continue;
    pool.rolling = i;
    return drain(i, false, now);
  }
}

// An idle instance is at rest as soon as it drains: nobody else's events may decide when that is seen.
void Fleet::settle(SimTime now) {
  for (std::size_t p = 0; p < pools_.size(); ++p)
    if (pools_[p].tick <= now) scale(p, now);
  for (std::size_t at = 0; at < draining_.size();) {
    const std::size_t i = draining_[at];
    if (!host_.at_rest(id(i))) {
      ++at;
      continue;
    }
    draining_.erase(draining_.begin() + static_cast<std::ptrdiff_t>(at));
    if (members_[i].then_off) {
      switch_off(i, now);
    } else {
      host_.take_down(id(i), now);
      start_up(i, now);
    }
  }
}

// ----------------------------------------------------------------------------------------------- autoscaling

std::int64_t Fleet::load_of(const Pool& pool) const {
  std::int64_t load = 0;
  for (const Parked& p : parked_[static_cast<std::size_t>(pool.at.role)]) {
    const RequestHistory* const h = ledger_.find(p.request);
    load += h != nullptr && h->ticket == p.ticket ? 1 : 0;
  }
  for (std::size_t i = pool.at.first; i < pool.at.first + pool.at.instances; ++i) {
    if (members_[i].state != InstanceState::up) continue;
    load += pool.plan.scale.by_queue ? host_.waiting(id(i)) : host_.outstanding(id(i));
  }
  return load;
}

// As Kubernetes' autoscaler: ⌈load ÷ target⌉ instances, within the limits.
void Fleet::scale(std::size_t p, SimTime now) {
  Pool& pool = pools_[p];
  const AutoscaleRules& rules = pool.plan.scale;
  pool.tick = now + rules.interval;
  std::int64_t current = 0;
  for (std::size_t i = pool.at.first; i < pool.at.first + pool.at.instances; ++i) {
    const Member& m = members_[i];
    current += m.state == InstanceState::up || (m.state == InstanceState::starting && !stuck_for_good(i)) ||
                       (m.state == InstanceState::failed && comes_back(m))
                   ? 1
                   : 0;
  }
  const double needed = static_cast<double>(load_of(pool)) / rules.target;
  auto wanted = static_cast<std::int64_t>(needed);
  if (static_cast<double>(wanted) < needed) ++wanted;
  wanted = std::clamp<std::int64_t>(wanted, rules.least, static_cast<std::int64_t>(pool.at.instances));
  std::int64_t changed = 0;
  if (wanted > current) {
    for (std::size_t i = pool.at.first; i < pool.at.first + pool.at.instances && current + changed < wanted;
         ++i) {
      if (members_[i].state != InstanceState::off || members_[i].outages > 0) continue;
      start_up(i, now);
      ++changed;
    }
  } else if (wanted < current && (pool.scaled.is_never() || now - pool.scaled >= rules.cooldown)) {
    shrink(pool, current - wanted, now);
    changed = wanted - current;
  }
  if (changed == 0) return;
  pool.scaled = now;
  result_.scalings.push_back({now, pool.at.name, current, current + changed});
}

// Those that are not ready yet first, then those that serve, from the highest number.
void Fleet::shrink(const Pool& pool, std::int64_t by, SimTime now) {
  for (const InstanceState state : {InstanceState::starting, InstanceState::up}) {
    for (std::size_t i = pool.at.first + pool.at.instances; i-- > pool.at.first && by > 0;) {
      if (members_[i].state != state || stuck_for_good(i)) continue;
      state == InstanceState::up ? drain(i, true, now) : switch_off(i, now);
      --by;
    }
  }
}

// -------------------------------------------------------------------------------------------------- requests

void Fleet::lose(const LostRequest& lost, InstanceId instance, SimTime now, SimTime wake) {
  ledger_.lost(lost);
  ++result_.requests_lost;
  result_.lost_prompt_tokens += static_cast<std::uint64_t>(lost.prompt_computed);
  result_.lost_output_tokens += static_cast<std::uint64_t>(lost.outputs);
  digest_.add(lost.request.value());
  digest_.add(std::int64_t{lost.outputs});
  RequestHistory& h = ledger_.at(lost.request);
  h.last = instance;
  wait(h, wake, now);
}

void Fleet::lose_unnoticed(RequestId request, InstanceId instance, SimTime now) {
  const SimTime noticed = members_[instance.value()].noticed;
  LostRequest lost;
  lost.request = request;
  lose(lost, instance, now, noticed.is_never() ? now + plan_.recovery.detection : noticed);
}

// Until `wake`, or until its client gives up.
void Fleet::wait(RequestHistory& h, SimTime wake, SimTime now) {
  ++h.ticket;
  ++waiting_;
  const SimTime at = later(now, earlier(wake, h.request.gives_up));
  if (!at.is_never()) wakes_.push({at, h.request.id, h.ticket});
}

void Fleet::wake(RequestId request, SimTime now) {
  RequestHistory& h = ledger_.at(request);
  ++h.ticket;
  --waiting_;
  if (h.request.gives_up <= now) {
    host_.forsake_all(request, now);
    return end(h, h.request.times_out ? RequestStatus::timed_out : RequestStatus::cancelled,
               h.request.gives_up, now);
  }
  if (!plan_.recovery.retry || h.lives > plan_.recovery.retries) {
    host_.forsake_all(request, now);
    return end(h, RequestStatus::failed, now, now);
  }
  ++result_.retries;
  host_.begin(Request(h.request), now);
}

void Fleet::park(const Request& leg, PoolRole role, SimTime now) {
  RequestHistory& h = ledger_.at(leg.id);
  h.leg = leg.leg;
  wait(h, SimTime::never(), now);
  parked_[static_cast<std::size_t>(role)].push_back({leg.id, h.ticket});
  if (!hope(role) || !plan_.recovery.retry) despair(now);
}

void Fleet::unpark(PoolRole role, SimTime now) {
  std::deque<Parked> all;
  all.swap(parked_[static_cast<std::size_t>(role)]);
  for (const Parked& p : all) {
    RequestHistory* const h = ledger_.find(p.request);
    if (h == nullptr || h->ticket != p.ticket) continue;
    ++h->ticket;
    --waiting_;
    Request leg = h->request;
    leg.leg = h->leg;
    host_.send(leg, role, now);
  }
}

bool Fleet::comes_back(const Member& m) const {
  return std::all_of(m.faults.begin(), m.faults.end(), [&](std::uint32_t f) {
    return !faults_[f].active || !plan_.faults[f].failure() || !plan_.faults[f].for_good();
  });
}

bool Fleet::hope(PoolRole role) const {
  return std::any_of(members_.begin(), members_.end(), [&](const Member& m) {
    const Pool& pool = pools_[m.pool];
    if (pool.at.role != role) return false;
    if (m.loading) return !stuck_for_good(static_cast<std::size_t>(&m - members_.data()));
    if (m.state == InstanceState::off) return pool.plan.scale.on && comes_back(m);
    if (m.state == InstanceState::draining) return !m.then_off || comes_back(m);
    return m.state != InstanceState::failed || comes_back(m);
  });
}

void Fleet::despair(SimTime now) {
  for (const PoolRole role : {PoolRole::mixed, PoolRole::prefill, PoolRole::decode, PoolRole::encoder}) {
    std::deque<Parked>& parked = parked_[static_cast<std::size_t>(role)];
    if (parked.empty() || (plan_.recovery.retry && hope(role))) continue;
    std::deque<Parked> all;
    all.swap(parked);
    for (const Parked& p : all) {
      RequestHistory* const h = ledger_.find(p.request);
      if (h == nullptr || h->ticket != p.ticket) continue;
      ++h->ticket;
      --waiting_;
      host_.forsake_all(p.request, now);
      end(*h, RequestStatus::failed, now, now);
    }
  }
}

// What its client had of it is written by the ledger.
void Fleet::end(RequestHistory& h, RequestStatus status, SimTime at, SimTime now) {
  if (status == RequestStatus::failed) ++result_.requests_failed;
  RequestRecord record;
  record.request = h.request.id.value();
  record.arrival = h.request.arrival;
  record.queue = at - h.request.arrival;
  record.e2e = at - h.request.arrival;
  record.prompt_tokens = h.request.prompt_tokens;
  record.instance = h.last;
  record.status = status;
  digest_.add(record.request * 8 + static_cast<std::uint64_t>(status));
  digest_.add(at.ns());
  ledger_.close(record);
  host_.end(record, now);
}

// --------------------------------------------------------------------------------------------------- results

FleetResult Fleet::result(SimTime from, SimTime to) const {
  FleetResult r = result_;
  r.on = true;
  for (std::size_t i = 0; i < members_.size(); ++i) {
    const Member& m = members_[i];
    if (m.state != InstanceState::up && to > m.since) r.stays.push_back({id(i), m.state, m.since, to});
  }
  const auto before = [](const FleetResult::Stay& a, const FleetResult::Stay& b) {
    return std::pair(a.begin, a.instance) < std::pair(b.begin, b.instance);
  };
  std::sort(r.stays.begin(), r.stays.end(), before);
  const double span = to > from ? (to - from).seconds() : 0;
  double down = 0, off = 0;
  r.gpu_hours = 0;
  for (const Pool& pool : pools_)
    r.gpu_hours += span * static_cast<double>(pool.plan.gpus) * static_cast<double>(pool.at.instances) / 3600;
  for (const FleetResult::Stay& stay : r.stays) {
    const SimTime begin = later(stay.begin, from), end = earlier(stay.end, to);
    if (end <= begin || stay.state == InstanceState::draining) continue;
    const double s = (end - begin).seconds();
    (stay.state == InstanceState::off ? off : down) += s;
    const Pool& pool = pools_[members_[stay.instance.value()].pool];
    if (stay.state == InstanceState::off) r.gpu_hours -= s * static_cast<double>(pool.plan.gpus) / 3600;
  }
  const double needed = span * static_cast<double>(members_.size()) - off;
  r.instance_up_s = needed - down;
  r.availability = needed > 0 ? r.instance_up_s / needed : 1;
  return r;
}

}  // namespace orrery
