// Instances that come and go in a run: faults (scheduled or drawn), restarts, rolling updates, autoscaling,
// and the requests that lose their instance or find none (docs/faults.md). The loop asks it what is next and
// does what it says through FleetHost; a run without a FleetPlan has no Fleet.
//
// Order at one instant: work that is complete, then ends of faults, their beginnings, what routers learn,
// instances that are ready, updates, requests that are sent again; then arrivals and scheduling; last the
// autoscaler and drains. Within each by index.
#pragma once

#include <array>
#include <deque>
#include <optional>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/random.h"
#include "sim/departures.h"
#include "sim/fleet_plan.h"
#include "sim/fleet_result.h"
#include "sim/pool_role.h"
#include "sim/request_ledger.h"

namespace orrery {

class FleetHost {
 public:
  virtual ~FleetHost() = default;
  // The instance's process is gone, and a fresh one that nobody uses yet stands in its place. Returns, by
  // request, who lost an instance that it needs; what they held elsewhere has been given back.
  virtual std::vector<LostRequest> take_down(InstanceId instance, SimTime now) = 0;
  virtual void open_to_router(InstanceId instance, bool open) = 0;
  virtual bool any_open(PoolRole role) const = 0;
  virtual void begin(const Request& request, SimTime now) = 0;  // like one that has just arrived
  virtual void send(const Request& leg, PoolRole role, SimTime now) = 0;
  // What a request that will not go on holds anywhere is given back.
  virtual void forsake_all(RequestId request, SimTime now) = 0;
  virtual void end(const RequestRecord& record, SimTime at) = 0;  // of a request that no instance has
  virtual bool at_rest(InstanceId instance) const = 0;            // nothing is left for it to do
  virtual std::int32_t outstanding(InstanceId instance) const = 0;
  virtual std::int32_t waiting(InstanceId instance) const = 0;
  virtual void set_speed(const GpuPlace& gpu, double factor) = 0;             // 1: as it should be
  virtual void set_link(std::uint32_t link, double factor, SimTime now) = 0;  // 0: cut
  virtual void load_weights(InstanceId instance, InstanceId peer, SimTime now) = 0;
  virtual void drop_load(InstanceId instance, SimTime now) = 0;
  virtual bool load_stuck(InstanceId instance) const = 0;  // until a link is mended
  virtual bool load_way(InstanceId instance, InstanceId peer) = 0;
};

struct FleetPool {
  std::string name;
  PoolRole role = PoolRole::mixed;
  std::size_t first = 0, instances = 0;
};

class Fleet {
 public:
  // `plan` and `host` must outlive it.
  Fleet(const FleetPlan& plan, std::vector<FleetPool> pools, FleetHost& host, std::uint64_t seed);

  void start();  // what is off at first
  SimTime next();
  void change(SimTime now);  // everything but the autoscaler and drains
  void settle(SimTime now);
  void loaded(InstanceId instance, SimTime now);  // its weights are there
  // Requests wait for an instance, or until somebody notices.
  bool holds_requests() const { return waiting_ > 0; }
  // Its process runs; false also while it is broken and nobody has noticed.
  bool runs(InstanceId instance) const {
    const InstanceState s = members_[instance.value()].state;
    return s == InstanceState::up || s == InstanceState::draining;
  }
  // The next instant at which a fault may change what the instance's steps take.
  SimTime next_fault(InstanceId instance) const;

  RequestLedger& ledger() { return ledger_; }
  // `lost` finds out at `wake`.
  void lose(const LostRequest& lost, InstanceId instance, SimTime now, SimTime wake);
  // Sent to an instance that is broken, which nobody has noticed.
  void lose_unnoticed(RequestId request, InstanceId instance, SimTime now);
  void park(const Request& leg, PoolRole role, SimTime now);  // no instance may be chosen

  std::uint64_t digest() const { return digest_.value(); }
  FleetResult result(SimTime from, SimTime to) const;

 private:
  enum class Kind : std::uint8_t { fault_end, fault_begin, noticed, ready, update };
  struct Event {
    SimTime at;
    Kind kind;
    std::uint32_t index;  // fault, instance or pool
    std::uint32_t life;   // of the instance: tells stale events
  };
  struct Fault {
    RandomStream stream;
    SimTime next;  // begins or ends
    bool active = false;
  };
  struct Member {
    std::size_t pool = 0;
    InstanceState state = InstanceState::up;
    SimTime since;
    SimTime noticed = SimTime::never();  // a loss, by routers
    std::uint32_t life = 0;
    std::int32_t outages = 0;  // failures that hold it down now
    bool then_off = false;     // draining: to be switched off; else to be started again
    bool loading = false;      // weights are under way, from `loads_from` where that is an instance
    InstanceId loads_from = InstanceId::none();
    std::vector<std::uint32_t> faults;
  };
  struct Pool {
    FleetPool at;
    PoolPlan plan;
    std::size_t rolling = no_member;  // the instance that an update is at
    SimTime tick = SimTime::never(), scaled = SimTime::never();
  };
  struct Wake {
    SimTime at;
    RequestId request;
    std::uint32_t ticket;
    RequestId request_id() const { return request; }
  };
  struct Parked {
    RequestId request;
    std::uint32_t ticket;
  };
  static constexpr std::size_t no_member = static_cast<std::size_t>(-1);
  static InstanceId id(std::size_t i) { return InstanceId(static_cast<std::uint32_t>(i)); }

  void push(Event event);
  void begin_fault(std::uint32_t index, SimTime now);
  void end_fault(std::uint32_t index, SimTime now);
  void apply_speed(std::uint32_t index, SimTime now);
  void break_down(std::size_t member, SimTime now);
  void repaired(std::size_t member, SimTime now);
  void enter(std::size_t member, InstanceState state, SimTime now);
  void start_up(std::size_t member, SimTime now);
  void begin_load(std::size_t member, SimTime now);
  void end_loads(std::size_t member, SimTime now);
  std::vector<InstanceId> peers_of(std::size_t member) const;
  void seek_peers(SimTime now);
  void ready_in(std::size_t member, SimDuration wait, SimTime now);
  void ready(std::size_t member, SimTime now);
  void drain(std::size_t member, bool then_off, SimTime now);
  void switch_off(std::size_t member, SimTime now);
  void roll_on(std::size_t pool, std::size_t from, SimTime now);
  void scale(std::size_t pool, SimTime now);
  std::int64_t load_of(const Pool& pool) const;
  void shrink(const Pool& pool, std::int64_t by, SimTime now);
  bool comes_back(const Member& member) const;
  bool stuck_for_good(std::size_t member) const;
  bool hope(PoolRole role) const;
  void despair(SimTime now);  // parked requests for whom no instance will ever be there

  void wait(RequestHistory& history, SimTime wake, SimTime now);
  void wake(RequestId request, SimTime now);
  void unpark(PoolRole role, SimTime now);
  void end(RequestHistory& history, RequestStatus status, SimTime at, SimTime now);
  void note(Kind kind, std::uint64_t index, SimTime now);

  const FleetPlan& plan_;
  FleetHost& host_;
  std::vector<Pool> pools_;
  std::vector<Member> members_;
  std::vector<Fault> faults_;
  std::vector<Event> events_;  // min-heap by (at, kind, index)
  std::vector<std::size_t> draining_;
  RequestLedger ledger_;
  TimedHeap<Wake> wakes_;
  std::array<std::deque<Parked>, pool_roles> parked_;  // by role
  std::int64_t waiting_ = 0;
  Digest digest_;
  FleetResult result_;
};

}  // namespace orrery
