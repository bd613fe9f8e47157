// Experts whose load changes while a run goes on: popularity that drifts, choices drawn for each token, and a
// balancer that moves experts. One state per instance; all of it follows from the seed, the steps' numbers,
// their tokens and the time they were scheduled at, so that a stretch and single steps see the same.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/time.h"
#include "costmodel/expert_loads.h"
#include "costmodel/step_pricer.h"
#include "sim/costed/fabric_transport.h"
#include "sim/results.h"
#include "sim/step_plan.h"

namespace orrery {

// Is told what tokens that decode chose in the layers that a step looked at.
class ExpertChoiceLog {
 public:
  virtual ~ExpertChoiceLog() = default;
  virtual void chose(RequestId request, std::int64_t place, std::int32_t layer,
                     std::span<const std::uint16_t> experts) = 0;
};

class ExpertRun {
 public:
  ExpertRun() = default;  // nothing changes: the pricer knows it all
  // `pricer` must outlive it. `first_instance`: numbers them among all pools', whose draws differ.
  ExpertRun(const InstanceSpec& spec, const StepPricer& pricer, std::size_t instances,
            std::size_t first_instance = 0);

  bool on() const { return !instances_.empty(); }
  // Weights move over links that others use too: while steps run as a flow, else at the pace that the step
  // finds there. It must outlive this.
  void share(FabricTransport* fabric) { fabric_ = fabric; }
  void tell(ExpertChoiceLog* log) { log_ = log; }
  // How many of the instance's next steps begin no such move, and so may be asked about ahead of their time;
  // and where each is drawn, not many, because events cut most of a long stretch off.
  std::int64_t steps_ahead(std::size_t instance) const;

  // Whether it matters which tokens decode. If so, those of the instance's next step, and of the steps behind
  // it until this is said again: the tokens that follow them. `tokens` is swapped for an old one.
  bool by_token() const { return on() && spec_.sampled; }
  void decoding(std::size_t instance, std::vector<DecodingToken>& tokens);

  // What a stretch must be able to take back. Cheap to copy.
  struct Segment {  // steps of the statistics' window under one popularity
    std::shared_ptr<ExpertLoads> loads;
    std::int64_t tokens = 0;
  };
  struct State {
    std::shared_ptr<ExpertLoads> loads, next;  // as placed now; as placed when the weights have moved
    SimTime next_at;                           // not before
    std::int64_t next_step = 0;                // nor before that step: a layer a step
    std::int64_t step = 0, rebalance_step = 0, rounds = 0;
    std::vector<Segment> window;
    std::size_t samples = 0;   // of the instance's series
    double balance_steps = 0;  // Σ balancedness over steps
    std::int64_t rebalanced = 0, kept = 0, moved = 0, stall_ns = 0, moving_ns = 0;
    bool on_links = false;                // the weights of `next` travel as a flow
    std::int64_t ran = 0;                 // steps since decoding() said who decodes
    bool noted = false;                   // they stand in the last of the window's runs
    std::size_t first_run = 0, runs = 0;  // of the window
  };
  const State& state(std::size_t instance) const { return instances_[instance].state; }
  void restore(std::size_t instance, const State& state);

  // StepShape::expert_q20 of the instance's next step, scheduled at `now`; weights that a step has to wait
  // for are part of it.
  std::int64_t next(std::size_t instance, const ExpertWork& work, SimTime now);
  // The same of every pipeline stage.
  void next(std::size_t instance, const ExpertWork& work, SimTime now, std::vector<std::int64_t>& stages);

  // Adds to what other pools reported; the series is the first pool's.
  void report(ExpertResult& result) const;

 private:
  struct TokenRun {  // of the window: tokens of these, and of the steps behind, in one segment of it
    std::vector<DecodingToken> tokens;
    std::int64_t named = 0;  // tokens that they are
    std::size_t segment = 0;
    std::int64_t first = 0, steps = 0;  // since decoding()
  };
  struct Instance {
    State state;
    std::vector<ExpertResult::Sample> series;
    std::vector<DecodingToken> tokens;
    std::int64_t named = 0;
    std::vector<double> drawn;  // nanoseconds of the steps since decoding(): a stretch that is cut has them
    std::vector<TokenRun> runs;
  };
  // Tokens of a step, or of a half: those that are drawn one by one, and how many others there are.
  struct Batch {
    std::vector<std::uint64_t> keys;
    std::int64_t others = 0;
  };
  struct LayerRange {
    std::int32_t first = 0, count = 0;
  };
  void place(std::size_t instance, SimTime now);
  void advance(std::size_t instance, std::int64_t tokens);
  void note_tokens(Instance& instance);
  static void forget_unread(Instance& instance);
  Batch batch(std::size_t instance, const State& s, std::int64_t tokens, std::uint64_t half = 0) const;
  RankLoad drawn_load(std::size_t instance, const State& s, std::int32_t layer, std::int64_t tokens,
                      const Batch& batch, std::uint64_t half = 0) const;
  RandomStream stream(std::size_t instance, const State& s, std::int32_t layer, std::uint64_t half = 0) const;
  template <class Each>  // (layer)
  void each_drawn(const State& s, LayerRange range, std::int32_t drawn, Each each) const;
  double step_ns(std::size_t instance, const ExpertWork& work);
  double products_ns(std::size_t instance, const State& s, const ExpertStep& step, LayerRange range) const;
  double halves_ns(std::size_t instance, const State& s, const ExpertWork& work) const;
  double rebalance(std::size_t instance, State& s, SimTime now);
  double move(std::size_t instance, State& s, const std::vector<double>& busiest, SimTime now);
  bool shares(std::size_t instance) const;
  void take_moved(std::size_t instance, State& s) const;
  using WindowKeys = std::vector<std::vector<std::uint64_t>>;  // by segment
  WindowKeys window_keys(std::size_t instance, const State& s) const;
  std::vector<double> counts(std::size_t instance, const State& s, std::int32_t layer,
                             const WindowKeys& keys) const;
  std::shared_ptr<ExpertLoads> loads(std::int64_t epoch, std::vector<ExpertPlacement> placements) const;
  void note(Instance& instance, SimTime at) const;

  const StepPricer* pricer_ = nullptr;
  FabricTransport* fabric_ = nullptr;  // null: links that nothing else uses
  ExpertChoiceLog* log_ = nullptr;
  ExpertSpec spec_;
  std::shared_ptr<const ExpertPopularity> popularity_;
  ExpertPrice price_;
  double parts_ = 1;  // GPUs that hold a part of an expert each
  ExchangeGroups groups_;
  std::vector<LayerRange> stages_;  // one without pipeline stages
  std::vector<Instance> instances_;
  std::size_t first_ = 0;
  std::vector<ExpertResult::Sample> unchanging_;  // where nothing changes but popularity is not uniform
};

}  // namespace orrery
