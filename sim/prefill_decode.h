// Prefill and decode apart, as the loop sees it: splits requests into legs, takes to the transport what the
// engines decide, and tells both sides of ends and failures (docs/disaggregation.md).
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "sim/handoffs.h"
#include "sim/instance.h"
#include "sim/kv_transport.h"
#include "sim/layer_progress.h"
#include "sim/request_ledger.h"

namespace orrery {

class PrefillDecode {
 public:
  struct Loop {
    std::function<void(InstanceId)> mark;  // its core thread may have something to do
    // Sends a leg to the instances of a role; `at_proxy`: from the proxy's answer, not with the arrival.
    std::function<void(const Request&, PoolRole, SimTime, bool at_proxy)> dispatch;
    // A leg that was sent there will not come; what listens to answers is told.
    std::function<void(InstanceId, RequestId)> over = {};
    // What has arrived was an encoder instance's embeddings: that side's.
    std::function<bool(const KvPullDone&, SimTime)> fetched = {};
    bool has_mixed = false;
    const std::vector<std::uint32_t>* lives = nullptr;  // by instance: how often it was begun again
  };
  using Instances = std::vector<std::unique_ptr<Instance>>;
  PrefillDecode(const PdRules& rules, KvTransport& transport, Executor& executor, const Instances& instances,
                Loop loop);

  Handoffs& handoffs() { return handoffs_; }
  SimTime next_event();

  void arrived(const Request& request, SimTime now);
  // Its first leg, for the prefill instances, whoever sends it there.
  Request begin(const Request& request);
  void entered(const Request& request, InstanceId instance, SequenceId sequence);
  // A leg that no engine took.
  void forsake(RequestId request, SimTime now);
  void take_layers(SimTime now);
  void take_ended(SimTime now);    // transfers, and leases
  void take_answers(SimTime now);  // prefill legs that were answered go on as decode legs
  // What the last pass, or outcome, of an instance wants fetched or sent.
  void take_work(InstanceId id, SimTime now);
  // Tells legs of each other's ends. May mark instances; to be called until nothing is marked.
  void settle(SimTime now);
  std::uint64_t retried() const { return retried_; }
  std::uint64_t failed() const { return failed_; }  // transfers

  // Instances that are lost (prefill_decode_losses.cpp). `gone` had `here`, and has lost `lost`; who loses
  // its other leg's instance, or what that holds, is added, and who has an end all the same is taken out.
  void lose_instance(InstanceId gone, PoolRole role, std::span<const Instance::Live> here, SimTime now,
                     std::vector<LostRequest>& lost);
  // It goes on elsewhere from its beginning, or not at all. False: it has ended, or is about to by itself.
  bool abandon(RequestId request, SimTime now);
  // A decode leg on its way whose prefill instance has gone since it answered: that instance; else none.
  InstanceId lost_holder(const Request& leg);
  // Where a leg is on its way to, or none.
  void bind(const Request& leg, InstanceId to);
  // A leg on its way of an attempt that was given up while it was.
  bool stale(const Request& leg) const;

 private:
  struct Release {
    SimTime at;
    RequestId request;
    InstanceId instance;
    std::uint32_t life;
    SequenceId held;
    bool failed = false;  // it waits for KV that will not come; else what it holds is not needed
    RequestId request_id() const { return request; }
  };
  bool lives(InstanceId instance, std::uint32_t life) const {
    return (*loop_.lives)[instance.value()] == life;
  }
  void begin_pulls(std::span<const PullWork> pulls, InstanceId to, SimTime now);
  void make_room_known(const PullWork& work, InstanceId to, SimTime now);
  void computed(Handoff& h, RequestId request, std::int64_t parts, std::int64_t of, SimTime now);
  void flush(Handoff& h, RequestId request, SimTime now);
  struct Notice {  // for a decode instance: a transfer is over
    SimTime at;
    RequestId request;
    InstanceId instance;
    std::uint32_t life;
    SequenceId sequence;
    bool failed, said_eos;
    RequestId request_id() const { return request; }
  };
  void tell_decode(const Notice& notice, SimTime now);
  void end_transfer(Handoff& h, RequestId request, bool failed, SimTime at, SimTime now);
  void give_back(Handoff& h, RequestId request, SimTime now);
  void release(const Release& r, SimTime now);
  // Nothing that the request holds at a prefill instance is needed any more.
  void release_held(RequestId request, SimTime now);
  // Decode legs that have not got all blocks yet from a prefill instance that is gone.
  void lose_held_by(InstanceId holder, SimTime now, std::vector<LostRequest>& lost);
  // Where both legs are sent at once: both are given up. Nullopt: nobody is to hear of it.
  std::optional<LostRequest> give_up_both(RequestId request, SimTime now);
  std::optional<LostRequest> withdraw(InstanceId at, SequenceId sequence, SimTime now);
  SimTime missed(SimTime now) const;
  void lose_pairs(InstanceId gone, PoolRole role, std::span<const Instance::Live> here, SimTime now,
                  std::vector<LostRequest>& lost);
  void drop_decode_leg(InstanceId at, const Instance::Live& live, SimTime now,
                       std::vector<LostRequest>& lost);
  void settle_pair(RequestId request, SimTime now);
  void abandon(const Handoff& h, SimTime now);
  void send_again(RequestId request, SimTime now);

  Handoffs handoffs_;
  KvTransport& transport_;
  Executor& executor_;
  const Instances& instances_;
  Loop loop_;
  LayerProgress layers_;
  std::vector<KvPullDone> ended_;
  std::vector<KvPull> pulls_;         // being begun,
  std::vector<SimDuration> posting_;  // and how long each rank's launcher is busy with them
  std::vector<InstanceId> wakes_;     // to be marked when no instance is being scheduled
  TimedHeap<Release> leases_;
  TimedHeap<Notice> notices_;  // that an instance with nothing to run has not taken yet
  std::uint64_t retried_ = 0, failed_ = 0;
  std::uint32_t attempts_ = 0;
};

}  // namespace orrery
