#include "sim/fabric/flows.h"

#include <algorithm>
#include <queue>
#include <tuple>

#include "base/indexed_heap.h"
#include "sim/fabric/shares.h"

namespace orrery::fabric {

namespace {

__extension__ using Wide = __int128;
constexpr std::int64_t nano = 1'000'000'000;

struct Flow {
  enum class Where : std::uint8_t { nowhere, active, on_its_way } where = Where::nowhere;
  FlowId id;
  FlowSpec spec;
  Wide left = 0;       // nanobytes at `since`
  Wide uncounted = 0;  // nanobytes left when it took its present links
  SimTime since;
  SimDuration latency;
};

struct Later {  // for a heap with the earliest on top
  bool operator()(const Arrival& a, const Arrival& b) const {
    return std::tuple(a.at, a.key, a.flow) > std::tuple(b.at, b.key, b.flow);
  }
};

}  // namespace

struct Flows::State {
  explicit State(const Topology& t)
      : topology(t), routes(t), shares(t), ends(64), carried(t.link_count()), failed(t.link_count(), false) {}

  // What a direction has, after degradation; and what of it is kept for others. Empty until asked for.
  std::vector<std::int64_t> bandwidth, reserved;
  void set_capacity(LinkId link) {
    const std::size_t l = link.value();
    shares.set_capacity(link, std::max<std::int64_t>(1, bandwidth[l] - reserved[l]));
  }
  void know_bandwidths() {
    if (!bandwidth.empty()) return;
    reserved.resize(topology.link_count(), 0);
    for (std::size_t l = 0; l < topology.link_count(); ++l)
      bandwidth.push_back(topology.link(LinkId(static_cast<std::uint32_t>(l))).bytes_per_second);
  }

  const Topology& topology;
  Routes routes;
  Shares shares;
  SimTime clock;
  std::vector<Flow> flows;
  std::vector<std::uint32_t> free;
  std::uint64_t serial = 0;
  std::size_t heap_size = 64, active = 0;
  IndexedTimeHeap ends;  // when active flows drain, by slot
  std::priority_queue<Arrival, std::vector<Arrival>, Later> arrivals;
  std::vector<Wide> carried;  // nanobytes
  std::vector<bool> failed;
  std::int64_t delivered = 0;
  std::uint64_t touched = 0;

  static std::uint32_t slot_of(FlowId id) { return static_cast<std::uint32_t>(id.value()); }
  Flow* find(FlowId id) {
    const std::uint32_t slot = slot_of(id);
    const bool known =
        slot < flows.size() && flows[slot].where != Flow::Where::nowhere && flows[slot].id == id;
    return known ? &flows[slot] : nullptr;
  }

  void reach(std::uint32_t slot, std::int64_t rate, SimTime now) {
    Flow& flow = flows[slot];
    flow.left -= static_cast<Wide>(rate) * (now - flow.since).ns();
    if (flow.left < 0) flow.left = 0;  // within its last nanosecond
    flow.since = now;
  }

  void settle() {
    if (shares.settled()) return;
    for (const std::uint32_t slot : shares.settle()) {
      ++touched;
      const std::int64_t rate = shares.rate(slot);
      if (rate == shares.old_rate(slot)) continue;
      reach(slot, shares.old_rate(slot), clock);
      ends.set(slot, drain_time(flows[slot], rate));
    }
  }
  SimTime drain_time(const Flow& flow, std::int64_t rate) const {
    if (rate == 0) return SimTime::never();
    const Wide wait = (flow.left + rate - 1) / rate;
    if (wait >= INT64_MAX - flow.since.ns()) return SimTime::never();
    return flow.since + SimDuration(static_cast<std::int64_t>(wait));
  }

  void leave_links(std::uint32_t slot) {
    Flow& flow = flows[slot];
    for (const LinkId link : shares.links_of(slot)) carried[link.value()] += flow.uncounted - flow.left;
    flow.uncounted = flow.left;
    shares.erase(slot);
    ends.set(slot, SimTime::never());
  }
  void release(std::uint32_t slot) {
    flows[slot].where = Flow::Where::nowhere;
    flows[slot].spec.links.clear();
    free.push_back(slot);
  }
  void send_off(std::uint32_t slot, SimTime now) {
    Flow& flow = flows[slot];
    flow.where = Flow::Where::on_its_way;
    arrivals.push({flow.id, flow.spec.key, now + flow.latency});
  }
  void drain(std::uint32_t slot) {
    flows[slot].left = 0;
    flows[slot].since = clock;
    leave_links(slot);
    --active;
    send_off(slot, clock);
  }

  // Moves time to `now`: everything that drains up to then drains at its own instant.
  void progress(SimTime now) {
    ORRERY_CHECK(now >= clock && !now.is_never(), "time does not run backwards");
    while (clock < now || shares.settled()) {  // what is left of a flow takes a nanosecond at least
      settle();
      const SimTime next = ends.first_time();
      if (next > now || next.is_never()) break;
      clock = next;
      while (ends.first_time() == next) drain(ends.first());
    }
    clock = now;
  }

  std::uint32_t new_slot() {
    if (!free.empty()) {
      const std::uint32_t slot = free.back();
      free.pop_back();
      return slot;
    }
    const auto slot = static_cast<std::uint32_t>(flows.size());
    flows.emplace_back();
    if (flows.size() > heap_size) {
      IndexedTimeHeap larger(heap_size * 2);
      for (std::uint32_t i = 0; i < heap_size; ++i) larger.set(i, ends.time(i));
      heap_size *= 2;
      ends = std::move(larger);
    }
    return slot;
  }
  SimDuration latency_of(const std::vector<LinkId>& links, bool demand) const {
    SimDuration sum, most;
    for (const LinkId link : links) {
      const SimDuration one = topology.link(link).latency;
      sum += one;
      if (most < one) most = one;
    }
    return demand ? most : sum;
  }
};

Flows::Flows(const Topology& topology) : state_(std::make_unique<State>(topology)) {}
Flows::~Flows() = default;

Result<FlowId> Flows::add(const FlowSpec& spec, SimTime now) {
  State& s = *state_;
  ORRERY_CHECK(spec.bytes >= 0 && spec.bytes <= (std::int64_t{1} << 62), "bytes of a flow: 0 to 2^62");
  s.progress(now);
  const bool demand = !spec.links.empty();
  std::vector<LinkId> links = demand ? spec.links : s.routes.find(spec.from, spec.to, spec.key);
  if (links.empty()) {
    const std::string ends = s.topology.device(spec.from).name + " to " + s.topology.device(spec.to).name;
    return make_error(ErrorKind::invalid_input,
                      spec.from == spec.to ? "a flow from " + ends + ": two different devices were expected"
                                           : "no way from " + ends + ": add a link, or undo a link failure");
  }
  for (const LinkId link : links) {
    if (!s.failed[link.value()]) continue;
    return make_error(ErrorKind::invalid_input, "a demand over a failed link from " +
                                                    s.topology.device(s.topology.link(link).from).name +
                                                    " to " +
                                                    s.topology.device(s.topology.link(link).to).name);
  }
  const std::uint32_t slot = s.new_slot();
  Flow& flow = s.flows[slot];
  flow.id = FlowId(s.serial++ << 32 | slot);
  flow.spec = spec;
  flow.left = flow.uncounted = static_cast<Wide>(spec.bytes) * nano;
  flow.since = now;
  flow.latency = s.latency_of(links, demand);
  if (spec.bytes == 0) {
    s.send_off(slot, now);
    return flow.id;
  }
  flow.where = Flow::Where::active;
  ++s.active;
  s.shares.insert(slot, links);
  return flow.id;
}

SimTime Flows::next_end() {
  State& s = *state_;
  s.settle();
  while (!s.arrivals.empty() && s.find(s.arrivals.top().flow) == nullptr) s.arrivals.pop();  // removed since
  const SimTime arrival = s.arrivals.empty() ? SimTime::never() : s.arrivals.top().at;
  return later(s.clock, earlier(arrival, s.ends.first_time()));  // one may have arrived that nobody asked for
                                                                 // yet
}

std::vector<Arrival> Flows::advance(SimTime now) {
  State& s = *state_;
  s.progress(now);
  std::vector<Arrival> out;
  while (!s.arrivals.empty() && s.arrivals.top().at <= now) {
    const Arrival arrival = s.arrivals.top();
    s.arrivals.pop();
    const Flow* flow = s.find(arrival.flow);
    if (flow == nullptr) continue;
    s.delivered += flow->spec.bytes;
    s.release(State::slot_of(arrival.flow));
    out.push_back(arrival);
  }
  return out;
}

std::int64_t Flows::remove(FlowId id, SimTime now) {
  State& s = *state_;
  s.progress(now);
  Flow* flow = s.find(id);
  if (flow == nullptr) return -1;
  const std::uint32_t slot = State::slot_of(id);
  if (flow->where == Flow::Where::active) {
    s.reach(slot, s.shares.rate(slot), now);
    s.leave_links(slot);
    --s.active;
  }
  const auto left = static_cast<std::int64_t>((flow->left + nano - 1) / nano);
  s.release(slot);
  return flow->spec.bytes - left;
}

void Flows::degrade(LinkId link, double factor, SimTime now) {
  ORRERY_CHECK(factor > 0 && factor <= 1,
               "a degraded link keeps more than none and at most all of its bandwidth");
  State& s = *state_;
  s.progress(now);
  const double rate = static_cast<double>(s.topology.link(link).bytes_per_second) * factor;
  s.know_bandwidths();
  s.bandwidth[link.value()] = std::max<std::int64_t>(1, round_half_even(rate));
  s.set_capacity(link);
}

void Flows::reserve(LinkId link, std::int64_t bytes_per_second, SimTime now) {
  ORRERY_CHECK(bytes_per_second >= 0, "a reservation is not negative");
  State& s = *state_;
  s.know_bandwidths();
  if (s.reserved[link.value()] == bytes_per_second) return;
  s.progress(now);
  s.reserved[link.value()] = bytes_per_second;
  s.set_capacity(link);
}

FailedLink Flows::fail(LinkId link, SimTime now) {
  State& s = *state_;
  s.progress(now);
  std::vector<std::uint32_t> hit;
  for (const LinkId direction : {link, Topology::reverse(link)}) {
    s.failed[direction.value()] = true;
    s.routes.fail(direction);
    for (std::size_t i = 0; i < s.shares.flows_on(direction); ++i)
      hit.push_back(s.shares.flow_on(direction, i));
  }
  const auto earlier_key = [&s](std::uint32_t a, std::uint32_t b) {
    return std::pair(s.flows[a].spec.key, s.flows[a].id) < std::pair(s.flows[b].spec.key, s.flows[b].id);
  };
  std::sort(hit.begin(), hit.end(), earlier_key);
  hit.erase(std::unique(hit.begin(), hit.end()), hit.end());
  FailedLink out;
  for (const std::uint32_t slot : hit) {
    Flow& flow = s.flows[slot];
    s.reach(slot, s.shares.rate(slot), now);
    s.leave_links(slot);
    std::vector<LinkId> links;
    if (flow.spec.links.empty()) links = s.routes.find(flow.spec.from, flow.spec.to, flow.spec.key);
    if (links.empty()) {
      out.cut.push_back({flow.id, flow.spec.key, static_cast<std::int64_t>((flow.left + nano - 1) / nano)});
      --s.active;
      s.release(slot);
      continue;
    }
    flow.latency = s.latency_of(links, false);
    s.shares.insert(slot, links);
    out.rerouted.push_back(flow.id);
  }
  return out;
}

void Flows::restore(LinkId link, SimTime now) {
  State& s = *state_;
  s.progress(now);
  for (const LinkId direction : {link, Topology::reverse(link)}) {
    s.failed[direction.value()] = false;
    s.routes.restore(direction);
  }
}

bool Flows::active(FlowId id) const {
  const Flow* flow = state_->find(id);
  return flow != nullptr && flow->where == Flow::Where::active;
}

std::int64_t Flows::rate(FlowId id) {
  state_->settle();
  return active(id) ? state_->shares.rate(State::slot_of(id)) : 0;
}

std::int64_t Flows::bytes_left(FlowId id, SimTime now) {
  state_->progress(now);
  if (!active(id)) return 0;
  const std::uint32_t slot = State::slot_of(id);
  const Flow& flow = state_->flows[slot];
  const Wide left = flow.left - static_cast<Wide>(state_->shares.rate(slot)) * (now - flow.since).ns();
  return static_cast<std::int64_t>((left + nano - 1) / nano);
}

std::int64_t Flows::link_rate(LinkId link) {
  state_->settle();
  return state_->shares.used(link);
}

std::int64_t Flows::link_bytes(LinkId link) const {
  return static_cast<std::int64_t>(state_->carried[link.value()] / nano);
}

const std::vector<LinkId>& Flows::links_of(FlowId id) const {
  ORRERY_CHECK(active(id), "links of a flow that does not flow");
  return state_->shares.links_of(State::slot_of(id));
}

std::size_t Flows::active_count() const { return state_->active; }
std::int64_t Flows::delivered_bytes() const { return state_->delivered; }
std::uint64_t Flows::touched() const { return state_->touched; }

}  // namespace orrery::fabric
