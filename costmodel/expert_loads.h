// The loads of all layers with experts between two changes of popularity or placement, and what the expert
// products of a step, and the exchange of their rows, take under them.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "costmodel/expert_spec.h"
#include "costmodel/experts/rank_loads.h"
#include "costmodel/two_batches.h"

namespace orrery {

// A step as the price of its experts sees it.
struct ExpertStep {
  std::int64_t tokens = 0;   // padded, of all ranks that share out the experts
  std::int64_t own = 0;      // where rows are exchanged: of the rank that brings most; 0 = they are not
  bool low_latency = false;  // which kernels exchange them
  friend auto operator<=>(const ExpertStep&, const ExpertStep&) = default;
};

// Nanoseconds of what its layers' loads decide in a whole step in which every layer has the same one.
struct ExpertTime {
  double experts = 0;
  HalfExchange dispatch, combine;
  double ns() const {
    return experts + (dispatch.occupied + dispatch.behind) + (combine.occupied + combine.behind);
  }
};
using ExpertPrice = std::function<ExpertTime(const ExpertStep&, const RankLoad&)>;

// Of a step, whatever the loads: where it runs in two halves these apart.
struct ExpertWork {
  ExpertStep whole;
  bool two_batches = false;
  std::array<ExpertStep, 2> halves;
  HalvedStep halved;
};

class ExpertLoads {
 public:
  // Of as many layers as there are placements, from `first_layer` on.
  ExpertLoads(const ExpertPopularity& popularity, std::int64_t epoch, std::vector<ExpertPlacement> placements,
              const ExchangeGroups& groups = {}, std::int32_t first_layer = 0);
  // The same epoch with experts in other places.
  ExpertLoads(const ExpertLoads& other, std::vector<ExpertPlacement> placements);

  std::int64_t epoch() const { return epoch_; }
  std::int32_t layers() const { return static_cast<std::int32_t>(layers_.size()); }
  const LayerLoads& layer(std::int32_t l) const { return layers_[static_cast<std::size_t>(l)]; }
  const std::vector<ExpertPlacement>& placements() const { return placements_; }
  double balancedness() const { return balancedness_; }  // Σ mean ÷ Σ maximum over layers, of many tokens

  // Expected load of a layer: exact up to 32 tokens; beyond, a line between knots, eight to an octave. Filled
  // when first asked for, as what follows: not for several threads.
  RankLoad load(std::int32_t layer, std::int64_t tokens);
  // Expected time of a step, and of one whose layers are all as `layer`.
  double expected_ns(const ExpertStep& step, const ExpertPrice& price) { return row(step, price).all; }
  double layer_ns(const ExpertStep& step, std::int32_t layer, const ExpertPrice& price) {
    return row(step, price).layers[static_cast<std::size_t>(layer)];
  }
  // Of an exchange: each layer's, of both halves. Good until something else is asked.
  std::array<std::span<const ExpertTime>, 2> halves(const std::array<ExpertStep, 2>& steps,
                                                    const ExpertPrice& price);
  // Mean over layers of the expected load, by load() and kept.
  const RankLoad& typical(std::int64_t tokens);
  // Mean over layers of the expected load, from scratch.
  RankLoad mean_load(double tokens) const;

 private:
  struct Row {
    double all = 0;
    std::vector<double> layers;
    std::vector<ExpertTime> parts;  // of an exchange
  };
  const Row& row(const ExpertStep& step, const ExpertPrice& price);
  void fill(Row& row, const ExpertStep& step, const ExpertPrice& price);
  const std::vector<RankLoad>& knot(std::size_t index, std::int64_t tokens);

  std::int64_t epoch_;
  std::vector<ExpertPlacement> placements_;
  ExchangeGroups groups_;
  std::vector<LayerLoads> layers_;
  void balance();
  double balancedness_ = 1;
  std::vector<std::vector<RankLoad>> knots_;  // by knot and layer
  std::vector<std::unique_ptr<Row>> rows_;    // by tokens, without an exchange
  static constexpr std::size_t most_exchanged = 4096;  // prompts come in any size: then all are forgotten
  std::map<ExpertStep, Row> exchanged_;
  std::map<std::int64_t, RankLoad> typical_;
};

}  // namespace orrery
