// KV of prompts as flows between the GPUs of two instances: every rank pair a flow, all of a pull begun at
// once, links shared max-min (sim/fabric/flows.h). A pull has ended when the last of its flows has arrived,
// and a constant after that.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "sim/costed/rank_pairs.h"
#include "sim/costed/shared_links.h"
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
    std::int32_t ranks = 1;            // of attention data parallelism, which share out `gpus` in order
    std::int32_t width() const { return static_cast<std::int32_t>(gpus.size()) / ranks; }
    DeviceId gpu(std::int32_t rank, std::int32_t in_rank) const {
      return gpus[static_cast<std::size_t>(rank * width() + in_rank)];
    }
  };
  struct Model {
    std::int64_t kv_heads = 1;
    bool latent = false;
  };
  // `topology` must outlive it. Seats by instance.
  FabricTransport(const fabric::Topology& topology, std::vector<Seat> seats, const Model& model,
                  SimDuration floor);

  // Links that collectives of instances use, as SharedLinks wants them; `changed` is told which of these
  // instances must not go on as if alone. Before the first pull.
  using Changed = std::function<void(InstanceId, SimTime)>;
  SharedLinks& share(std::vector<std::vector<fabric::LinkId>> links, Changed changed);

  void begin(const KvPull& pull, SimTime now) override;
  SimTime next_event() override;
  void collect(SimTime now, std::vector<KvPullDone>& done) override;

  // Over `span` of simulated time.
  void report(SimDuration span, KvTransferResult& result) const;

 private:
  struct Ending {
    SimTime at;
    RequestId request;
  };
  void end(RequestId request, SimTime at);
  void meet(fabric::FlowId flow, SimTime now);
  void part(fabric::FlowId flow, SimTime now);
  const std::vector<RankPair>& pairs(std::int32_t from_tp, std::int32_t to_tp);

  const fabric::Topology& topology_;
  std::vector<Seat> seats_;
  Model model_;
  SimDuration floor_;
  fabric::Flows flows_;
  std::optional<SharedLinks> shared_;
  Changed changed_;
  // Of flows on shared links; looked up, never iterated.
  std::unordered_map<std::uint64_t, std::vector<fabric::LinkId>> routes_;  // never iterated
  std::vector<InstanceId> touched_;
  std::unordered_map<std::uint64_t, std::int32_t> open_;  // flows by request; looked up, never iterated
  std::vector<Ending> endings_;                           // min-heap by (at, request)
  struct Pairs {
    std::int32_t from_tp, to_tp;
    std::vector<RankPair> pairs;
  };
  std::vector<Pairs> known_pairs_;
  std::uint64_t pulls_ = 0;
  std::int64_t bytes_ = 0;
};

}  // namespace orrery
