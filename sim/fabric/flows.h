// Flows that share links max-min fairly, in integer nanoseconds and bytes.
//
// Rates are integers, bytes per second, by water filling: all rates rise together; when the links with the
// least ⌊capacity left / flows left⌋ are full, all flows on all of them stop there; repeat. (Bertsekas and
// Gallager, Data Networks, section 6.5.2, with the division rounded down and ties taken together: a function
// of the set of flows, not of how it came about. A link of n flows may leave up to n − 1 bytes per second
// unused.) Bytes that have left count in nanobytes (10⁻⁹ byte) in 128 bits: rate × elapsed ns is exact,
// nothing is rounded, and cutting time in other places changes nothing. A flow drains at the first nanosecond
// at which nothing is left, frees its share then, and arrives its route's latency later: latency counts once
// a flow.
//
// Changes at one instant are collected and shares computed once, when time moves or somebody asks. A change
// touches the flows that it can reach over *binding* links; a link with at least one spare byte per second
// for each of its flows binds nobody and stops it (flows.cpp says why that is exact). Results are ordered by
// (time, key, id): give flows of one instant different keys, and the order in which they were added does not
// matter.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "sim/fabric/routes.h"
#include "sim/fabric/topology.h"

namespace orrery::fabric {

using FlowId = StrongId<struct FlowTag, std::uint64_t>;  // never used again within a Flows

struct FlowSpec {
  DeviceId from, to;            // routed; ignored where `links` are given
  std::int64_t bytes = 0;       // 0 to 2^62
  std::uint64_t key = 0;        // names the flow: chooses between equal ways, orders results
  std::vector<LinkId> links{};  // a demand: every one of these links carries `bytes`, all at one rate. No
                                // duplicates.
};

struct Arrival {
  FlowId flow;
  std::uint64_t key = 0;
  SimTime at;
};

struct CutFlow {
  FlowId flow;
  std::uint64_t key = 0;
  std::int64_t bytes_left = 0;  // rounded up
};
struct FailedLink {              // both ordered by (key, id)
  std::vector<FlowId> rerouted;  // go on over another route with what is left
  std::vector<CutFlow> cut;      // no way left (a demand's links are fixed): removed
};

class Flows {
 public:
  explicit Flows(const Topology& topology);  // keeps a reference
  ~Flows();
  Flows(const Flows&) = delete;
  Flows& operator=(const Flows&) = delete;

  // `now` never decreases from call to call. An error (no route, failed link) names both ends and adds
  // nothing.
  Result<FlowId> add(const FlowSpec& spec, SimTime now);
  // The next instant at which a flow drains or arrives, if nothing else happens; never() when there is none.
  // May move either way after any call. `advance` to it may return nothing: a drained flow is still on its
  // way.
  SimTime next_end();
  std::vector<Arrival> advance(SimTime now);  // what arrived up to `now`, ordered by (time, key, id)
  // Takes a flow out that has not arrived; returns the whole bytes that had left. Unknown or arrived: −1.
  std::int64_t remove(FlowId flow, SimTime now);
  // Sets a direction's bandwidth to factor × the topology's (not of what it is now). 0 < factor ≤ 1.
  void degrade(LinkId link, double factor, SimTime now);
  // Keeps so many bytes a second of a direction for somebody else: flows share the rest of what it has, at
  // least one byte a second. Replaces what was reserved before.
  void reserve(LinkId link, std::int64_t bytes_per_second, SimTime now);
  // Cuts the cable: both directions carry nothing any more. Drained flows still arrive.
  FailedLink fail(LinkId link, SimTime now);
  // Undoes that for both directions, at the bandwidth they had. Flows under way keep their routes.
  void restore(LinkId link, SimTime now);

  bool active(FlowId flow) const;                     // has not drained
  std::int64_t rate(FlowId flow);                     // bytes per second; 0 when not active
  std::int64_t bytes_left(FlowId flow, SimTime now);  // rounded up; 0 when not active
  std::int64_t link_rate(LinkId link);                // sum over its flows
  std::int64_t link_bytes(LinkId link) const;  // whole bytes of flows that drained, were removed or left this
                                               // link
  const std::vector<LinkId>& links_of(FlowId flow) const;  // precondition: active
  std::size_t active_count() const;
  std::int64_t delivered_bytes() const;  // of flows that arrived
  std::uint64_t touched() const;         // flows whose share was computed, over all changes: the work done

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace orrery::fabric
