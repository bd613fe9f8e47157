// The part of the loop that lets instances come and go: what it knows of them, and what it does when a Fleet
// says so. sim/simulation.cpp has the loop itself.
#pragma once

#include <array>
#include <memory>
#include <optional>
#include <vector>

#include "sim/encoder_relay.h"
#include "sim/fleet.h"
#include "sim/instance.h"
#include "sim/prefill_decode.h"
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

  // `at_proxy`: from the proxy's answer, not with the arrival.
  virtual void dispatch(const Request& request, PoolRole role, SimTime now, bool at_proxy) = 0;

  void make_instances();  // with their fleet, if any; places_ are known
  void mark(InstanceId id) {
    if (marked_[id.value()]) return;
    marked_[id.value()] = true;
    to_schedule_.push_back(id);
  }
  RouterGroup& group(PoolRole role) { return groups_[static_cast<std::size_t>(role)]; }
  void update_view(InstanceId id) {
    const Place& place = places_[id.value()];
    place.group->set_outstanding(place.in_group, outstanding(id));
  }
  // A leg that the proxy sends on has come to it with an answer, unless both were sent at once.
  bool at_proxy(const Request& leg) const { return leg.leg == RequestLeg::decode && !setup_.pd.at_once; }
  bool sent_at_once(const Request& leg) const {
    const bool one_of_two = leg.leg == RequestLeg::prefill || leg.leg == RequestLeg::decode;
    return apart_ && setup_.pd.at_once && one_of_two;
  }
  void bind(const Request& leg, InstanceId to) {
    if (fleet_ && sent_at_once(leg)) apart_->bind(leg, to);
  }
  bool stale(const Request& leg) const { return fleet_ && apart_ && apart_->stale(leg); }
  // What an encoder instance has made for a request that goes on; from none: nothing.
  struct Embeddings {
    InstanceId from = InstanceId::none();
    std::uint32_t life = 0;
  };
  // The one place that chooses an instance for a request. None: it waits until one may be chosen, or was sent
  // to one that is gone and that nobody has missed yet; either way its embeddings are dropped.
  InstanceId choose(const Request& request, PoolRole role, const Embeddings& brought, SimTime now);
  // The one place that finds that an instance in its life `life` went while a request was on its way there,
  // which is lost with it.
  bool went(InstanceId to, std::uint32_t life, const Request& request, const Embeddings& brought,
            SimTime now);
  void park(const Request& request, PoolRole role, SimTime now);  // no instance may be chosen
  // A decode leg on its way whose prefill instance has gone since it answered: it is lost.
  bool lost_its_holder(const Request& leg, SimTime now);
  // Encoder pools. Nobody will fetch them; the way to the language instance, or its beginning, found them
  // gone, and the request is encoded again.
  void drop(const Embeddings& brought) {
    if (!brought.from.is_none() && lives_[brought.from.value()] == brought.life)
      relay_->given_back(brought.from);
  }
  void lose_embeddings(const Entrance& e, SimTime now);
  bool found_gone(const EncoderRelay::Sent& sent, SimTime now);
  // A request on its way to an instance that is gone, or that went in between.
  void lose_unnoticed(const Request& request, InstanceId chosen, SimTime now);
  // It was routed to `chosen`, and will not be answered from there.
  void over_at(InstanceId chosen, RequestId request);

  // FleetHost, but for begin().
  std::vector<LostRequest> take_down(InstanceId id, SimTime now) override;
  void forsake_all(RequestId request, SimTime now) override;
  void open_to_router(InstanceId id, bool open) override;
  void end(const RequestRecord& record, SimTime at) override;
  bool at_rest(InstanceId id) const override;
  bool any_open(PoolRole role) const override { return groups_[static_cast<std::size_t>(role)].any_open(); }
  void send(const Request& leg, PoolRole role, SimTime now) override {
    if ((apart_ && setup_.pd.at_once) || (relay_ && !leg.images.empty())) return begin(leg, now);
    dispatch(leg, role, now, at_proxy(leg));
  }
  std::int32_t outstanding(InstanceId id) const override {
    return instances_[id.value()]->outstanding() + entering_count_[id.value()] + relayed_[id.value()];
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

  void load_weights(InstanceId id, InstanceId peer, SimTime now) override {
    setup_.transport->load(id, peer, now);
  }
  void drop_load(InstanceId id, SimTime now) override { setup_.transport->drop_load(id, now); }
  bool load_stuck(InstanceId id) const override {
    return setup_.transport != nullptr && setup_.transport->load_stuck(id);
  }
  bool load_way(InstanceId id, InstanceId peer) override { return setup_.transport->load_way(id, peer); }
  SimTime next_load() {
    return setup_.transport == nullptr ? SimTime::never() : setup_.transport->next_load();
  }
  void take_loaded(SimTime now) {
    if (setup_.transport == nullptr) return;
    loaded_.clear();
    setup_.transport->take_loaded(now, loaded_);
    for (const InstanceId id : loaded_) fleet_->loaded(id, now);
  }

  SimulationSetup setup_;
  RunCollector collector_;
  std::vector<std::unique_ptr<Instance>> instances_;
  TelemetryClock clock_;
  std::array<RouterGroup, pool_roles> groups_;  // by role
  std::vector<Place> places_;                   // by instance
  std::vector<std::uint32_t> lives_;            // by instance: how often it was begun again
  std::optional<PrefillDecode> apart_;
  std::optional<EncoderRelay> relay_;  // with encoder instances
  std::optional<Fleet> fleet_;
  std::optional<RunTally> tally_;
  std::vector<SimTime> input_free_;   // by instance: when its input path can take the next request
  std::vector<SimTime> images_free_;  // and when its API server can prepare the next images
  std::vector<SimTime> awake_;        // by instance: when its core, last found idle, sees what has come
  std::vector<std::int32_t> entering_count_;  // by instance
  std::vector<std::int32_t> relayed_;         // by instance: its images are prepared again, or fetched
  std::vector<bool> marked_;
  std::vector<InstanceId> to_schedule_;

 private:
  void make_instance(std::size_t i, std::unique_ptr<Scheduler> scheduler);
  void make_fleet();
  void lose_fetching(InstanceId id, SimTime now, std::vector<LostRequest>& lost);
  std::vector<InstanceId> loaded_;
  std::vector<std::int32_t> unnoticed_;  // by instance: what routers count at one that is gone
};

}  // namespace orrery
