// KV of prompts as flows between the GPUs of two instances: every rank pair a flow, all of a pull begun at
// once, links shared max-min (sim/fabric/flows.h). A pull has ended when the last of its flows has arrived,
// and a constant after that.
//
// A pull of vLLM's NixlConnector also takes what its descriptors take (costmodel/nixl_reads.h): it is there
// when its bytes and its descriptors are.
//
// What is sent part by part goes through a connection for each rank pair: one flow at a time, in order; what
// has become ready meanwhile follows as one flow. So a request takes one share of a link either way.
//
// The same links carry KV to and from host memory (host_copies.h), weights of experts that move
// (fabric_traffic.cpp) and of instances that start (weight_flows.cpp), and what steps put on them
// (shared_links.h).
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "costmodel/nixl_reads.h"
#include "sim/costed/host_copies.h"
#include "sim/costed/rank_pairs.h"
#include "sim/costed/shared_links.h"
#include "sim/costed/weight_loads.h"
#include "sim/fabric/figure.h"
#include "sim/fabric/flows.h"
#include "sim/kv_transport.h"
#include "sim/results.h"

namespace orrery {

// What every pull takes beside its bytes: handing over addresses, posting reads, the notice at the end.
extern const fabric::Figure kv_transfer_floor;

class FabricTransport final : public KvTransport {
 public:
  struct Seat {                        // of an instance
    std::vector<DeviceId> gpus;        // by rank
    std::int64_t bytes_per_block = 0;  // of all layers, on one rank
    std::int32_t regions = 0;  // pieces that a block stands in, each a descriptor: layers, keys and values
    const NixlFigures* nixl = nullptr;  // what its reads take, descriptor by descriptor; null: bytes alone
    std::int32_t ranks = 1;             // of attention data parallelism, which share out `gpus` in order
    std::vector<std::int64_t> layers = {1};  // pipeline stages: with KV, by stage; a block is of all of them
    std::int32_t width() const { return static_cast<std::int32_t>(gpus.size()) / ranks; }
    bool embeds = false;  // it sends images' embeddings, all to every rank, and no KV
    std::int32_t tp() const { return width() / static_cast<std::int32_t>(layers.size()); }
    DeviceId gpu(std::int32_t rank, std::int32_t in_rank) const {
      return gpus[static_cast<std::size_t>(rank * width() + in_rank)];
    }
  };
  struct Model {
    std::int64_t kv_heads = 1;
    bool latent = false;
    // Of a prefill side's ranks that keep the same latent the one that a decode side's rank (of attention
    // data parallelism) reads goes by its number; else it is always the first.
    bool copies_in_turn = false;
  };
  // `topology` must outlive it. Seats by instance.
  FabricTransport(const fabric::Topology& topology, std::vector<Seat> seats, const Model& model,
                  SimDuration floor);

  // Links that instances' own traffic uses, as SharedLinks wants them; `changed` is told which of these
  // instances must not go on as if alone. Before the first flow.
  using Changed = std::function<void(InstanceId, SimTime)>;
  SharedLinks& share(std::vector<std::vector<LinkSide>> sides, Changed changed);
  SharedLinks* shared() { return shared_ ? &*shared_ : nullptr; }
  // What has arrived by `now` has arrived: before links are asked how full they are. KV of requests, begun or
  // not, is still collected.
  void pump(SimTime now);

  // Copies to and from host memory, by instance. After share().
  void share_copies(std::vector<HostCopies::Seat> seats);
  bool copies(std::size_t instance) const { return copies_ && copies_->has(instance); }
  void copy(std::size_t instance, const TransferWork& work, SimTime ready, SimTime now);
  SimTime next_copy();
  void take_copies(std::size_t first, std::size_t count, std::vector<TransferDone>& done);
  void drop_copies(std::size_t instance, SimTime now);
  // A copy that a step waits for; when it ends, as links are shared now.
  SimTime copy_foretold(std::size_t instance, const TransferWork& work, SimTime ready, SimTime now);
  // How many times as long as alone a copy takes that begins now.
  double copy_slowdown(std::size_t instance, bool to_device, SimTime now);

  // Weights that an instance's balancer moves while steps run, one move at a time.
  void begin_move(std::size_t instance, const LinkUse& bytes, SimTime now);
  SimTime moved(std::size_t instance) const { return moves_[instance].at; }  // never(): under way

  // Weights of instances that start, by instance.
  void load_from(std::vector<WeightLoads::Plan> plans);
  void load(InstanceId instance, InstanceId peer, SimTime now) override;
  void drop_load(InstanceId instance, SimTime now) override;
  bool load_stuck(InstanceId instance) const override;
  bool load_way(InstanceId instance, InstanceId peer) override;
  SimTime next_load() override;
  void take_loaded(SimTime now, std::vector<InstanceId>& done) override;

  SimDuration posting(const KvPull& pull) const override;
  void begin(const KvPull& pull, SimTime now) override;
  void send(const KvSend& part, SimTime now) override;
  void forget(RequestId request, SimTime now) override;
  SimTime next_event() override;
  void collect(SimTime now, std::vector<KvPullDone>& done) override;

  // Faults. A request whose bytes are under way, or were to follow, fails as a whole: those that no way is
  // left for when a cable is cut; all of an instance that is gone, until it is back; one by itself. A lossy
  // or slow link: degrade(), which the flows on it feel from now on.
  void fail_link(fabric::LinkId link, SimTime now);
  void degrade(fabric::LinkId link, double factor, SimTime now) { flows_.degrade(link, factor, now); }
  void set_link(std::uint32_t link, double factor, SimTime now) override;
  void fail_instance(InstanceId instance, SimTime now);
  void restore_instance(InstanceId instance) { gone_[instance.value()] = false; }
  void begin_anew(InstanceId instance) override {
    std::vector<SimTime>& readers = reader_free_[instance.value()];
    readers.assign(readers.size(), SimTime{});
  }
  void fail(RequestId request, SimTime now);

  // Over `span` of simulated time.
  void report(SimDuration span, KvTransferResult& result) const;
  std::uint64_t fetches() const { return embeds_; }  // of embeddings
  std::int64_t fetched_bytes() const { return embedded_bytes_; }

 private:
  struct Ending {
    SimTime at;
    RequestId request;
    bool failed;
  };
  struct Pairs {
    std::int32_t from_tp, to_tp;
    bool whole;  // every rank reads all of it
    std::vector<std::int64_t> from_layers, to_layers;
    std::vector<RankPair> pairs;
  };
  struct Lane {
    fabric::FlowId flow;
    bool busy = false;
    std::int64_t queued = 0;  // bytes ready behind the flow
  };
  struct Open {
    InstanceId from, to;
    std::int32_t from_rank = 0, to_rank = 0;
    bool complete = false;  // no part follows
    SimTime not_before;     // its descriptors take until then
    std::int32_t busy = 0;
    std::vector<Lane> lanes;  // by rank pair
  };
  Open& open(RequestId request, InstanceId from, InstanceId to);
  bool push(RequestId request, Open& open, std::size_t lane, std::int64_t bytes, SimTime now);
  void arrived(const fabric::Arrival& arrival, SimTime now);
  void end(RequestId request, SimTime at);
  bool take_out(RequestId request, SimTime now);
  void meet(fabric::FlowId flow, SimTime now);
  void part(fabric::FlowId flow, SimTime now);
  const std::vector<RankPair>& pairs(InstanceId from, InstanceId to) const;
  template <class Time>
  SimDuration slowest_reader(const KvPull& pull, Time time) const;
  bool under_way() const { return !open_.empty() || !others_.empty(); }
  void add_other(const fabric::FlowSpec& spec, SimTime now);
  void other_arrived(const fabric::Arrival& arrival);
  void other_cut(const fabric::CutFlow& cut, SimTime now);
  void move_over(std::size_t instance, std::int64_t bytes, SimTime now);
  static bool is_load(std::uint64_t key);
  void load_gpu(InstanceId instance, const WeightLoads::Rest& rest, SimTime now);
  void load_arrived(std::uint64_t key, SimTime now);
  void load_cut(std::uint64_t key, std::int64_t left, SimTime now);
  void links_of_loads(fabric::LinkId link, bool cut, SimTime now);

  const fabric::Topology& topology_;
  std::vector<Seat> seats_;
  std::vector<bool> gone_;  // by instance
  Model model_;
  SimDuration floor_;
  fabric::Flows flows_;
  std::optional<SharedLinks> shared_;
  Changed changed_;
  // Of flows, where links are shared.
  std::unordered_map<std::uint64_t, std::vector<fabric::LinkId>> routes_;  // never iterated
  std::vector<InstanceId> touched_;
  std::optional<HostCopies> copies_;
  std::optional<WeightLoads> loads_;
  struct Move {
    std::size_t side = 0;
    SimTime at;  // when the last one was over
  };
  std::vector<Move> moves_;                         // by instance
  std::map<std::uint64_t, fabric::FlowId> others_;  // flows that are no request's, by key
  std::map<std::uint64_t, Open> open_;              // by request
  std::vector<bool> cut_;                           // links that carry nothing; empty: all carry
  std::vector<Ending> endings_;                     // min-heap by (at, request)
  mutable std::deque<Pairs> known_pairs_;
  std::vector<std::vector<SimTime>> reader_free_;  // by instance and rank: what was posted before is there
  std::uint64_t pulls_ = 0, failed_ = 0, embeds_ = 0;
  std::int64_t bytes_ = 0, embedded_bytes_ = 0;
};

}  // namespace orrery
