// KV of prompts as flows between the GPUs of two instances: every rank pair a flow, all of a pull begun at
// once, links shared max-min (sim/fabric/flows.h). A pull has ended when the last of its flows has arrived,
// and a constant after that.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "sim/costed/rank_pairs.h"
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
  };
  struct Model {
    std::int64_t kv_heads = 1;
    bool latent = false;
  };
  // `topology` must outlive it. Seats by instance.
  FabricTransport(const fabric::Topology& topology, std::vector<Seat> seats, const Model& model,
                  SimDuration floor);

  void begin(const KvPull& pull, SimTime now) override;
  SimTime next_event() override;
  void collect(SimTime now, std::vector<KvPullDone>& done) override;

  void cancel(RequestId request, SimTime now) override;
  void set_link(std::uint32_t link, double factor, SimTime now) override;

  // Over `span` of simulated time.
  void report(SimDuration span, KvTransferResult& result) const;

 private:
  struct Ending {
    SimTime at;
    RequestId request;
    bool lost = false;
  };
  struct Open {
    std::vector<fabric::FlowId> flows;  // all that were begun
    std::int32_t left = 0;              // that have not arrived
  };
  void end(RequestId request, SimTime at);
  void lose(RequestId request, SimTime now);
  const std::vector<RankPair>& pairs(std::int32_t from_tp, std::int32_t to_tp);

  const fabric::Topology& topology_;
  std::vector<Seat> seats_;
  Model model_;
  SimDuration floor_;
  fabric::Flows flows_;
  std::unordered_map<std::uint64_t, Open> open_;  // by request; looked up, never iterated
  std::vector<bool> cut_;                         // links that carry nothing; empty: all carry
  std::vector<Ending> endings_;                   // min-heap by (at, request)
  struct Pairs {
    std::int32_t from_tp, to_tp;
    std::vector<RankPair> pairs;
  };
  std::vector<Pairs> known_pairs_;
  std::uint64_t pulls_ = 0;
  std::int64_t bytes_ = 0;
};

}  // namespace orrery
