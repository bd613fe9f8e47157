// The part of the loop that lets instances come and go: what it knows of them, and what it does when a Fleet
// says so. sim/simulation.cpp has the loop itself.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "sim/fleet.h"
#include "sim/handoffs.h"
#include "sim/instance.h"
#include "sim/router_group.h"
#include "sim/run_tally.h"
#include "sim/simulation.h"

namespace orrery {

class LoopFleet : protected FleetHost {
 protected:
  // Where an instance stands.
  struct Place {
    const PoolSetup* pool = nullptr;
    RouterGroup* group = nullptr;
    std::size_t in_group = 0;
    std::unique_ptr<FrontEnd> front_end = {};  // null: the client sits beside the engine
  };

  explicit LoopFleet(SimulationSetup setup)
      : setup_(std::move(setup)), collector_(setup_.slo, setup_.sink, setup_.warmup) {}

  virtual void dispatch(const Request& request, PoolRole role, SimTime now) = 0;

  void make_instances();  // with their fleet, if any; places_ are known
  void mark(InstanceId id) {
    if (marked_[id.value()]) return;
    marked_[id.value()] = true;
    to_schedule_.push_back(id);
  }
  RouterGroup& group(PoolRole role) { return groups_[static_cast<std::size_t>(role)]; }
  void update_view(InstanceId id) {
    const Place& place = places_[id.value()];
    place.group->view(place.in_group).outstanding = outstanding(id);
  }
  // The prefill instance need not hold anything for it any more.
  void give_back(const Handoff& h, RequestId request, SimTime now);
  // Both sides are alive and the bytes will not come: the decode side gives up its blocks, the prefill side
  // its own, and the request is lost. (What else a failed transfer may do belongs there: deployment.pd.)
  void lose_transfer(Handoff& h, RequestId request, SimTime now);
  // A decode leg on its way whose prefill instance has gone since it answered: it is lost.
  bool lost_its_holder(const Request& leg, SimTime now);
  // A request on its way to an instance that is gone, or that went in between.
  void lose_unnoticed(const Request& request, InstanceId chosen, SimTime now);

  // FleetHost, but for begin().
  std::vector<LostRequest> take_down(InstanceId id, SimTime now) override;
  void forsake_all(RequestId request, SimTime now) override;
  void open_to_router(InstanceId id, bool open) override;
  void end(const RequestRecord& record, SimTime at) override;
  bool at_rest(InstanceId id) const override;
  bool any_open(PoolRole role) const override { return groups_[static_cast<std::size_t>(role)].any_open(); }
  void send(const Request& leg, PoolRole role, SimTime now) override { dispatch(leg, role, now); }
  std::int32_t outstanding(InstanceId id) const override {
    return instances_[id.value()]->outstanding() + entering_count_[id.value()];
  }
  std::int32_t waiting(InstanceId id) const override {
    return instances_[id.value()]->scheduler().view().waiting;
  }
  void set_speed(const GpuPlace& gpu, double factor) override {
    setup_.executor->set_speed(gpu.instance, gpu.gpu, factor);
  }
  void set_link(std::uint32_t link, double factor, SimTime now) override {
    setup_.transport->set_link(link, factor, now);
  }

  SimulationSetup setup_;
  RunCollector collector_;
  std::vector<std::unique_ptr<Instance>> instances_;
  std::array<RouterGroup, 3> groups_;  // by role
  std::vector<Place> places_;          // by instance
  std::vector<std::uint32_t> lives_;   // by instance: how often it was begun again
  bool apart_ = false;                 // prefill and decode
  Handoffs handoffs_;
  std::optional<Fleet> fleet_;
  std::optional<RunTally> tally_;
  std::vector<SimTime> input_free_;  // by instance: when its input path can take the next request
  std::vector<SimTime> awake_;       // by instance: when its core, last found idle, sees what has come
  std::vector<std::int32_t> entering_count_;  // by instance
  std::vector<bool> marked_;
  std::vector<InstanceId> to_schedule_;

 private:
  void make_instance(std::size_t i, std::unique_ptr<Scheduler> scheduler);
  void make_fleet();
  void release(RequestId request, SimTime now);
  void lose_held_by(InstanceId holder, SimTime now, std::vector<LostRequest>& lost);
  void drop_decode_leg(InstanceId at, const Instance::Live& live, SimTime now,
                       std::vector<LostRequest>& lost);
};

}  // namespace orrery
