// The loads of all layers with experts between two changes of popularity or placement, and what the expert
// products of a step of so many tokens take under them.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "costmodel/expert_spec.h"
#include "costmodel/experts/rank_loads.h"

namespace orrery {

// Nanoseconds of the expert products of a whole step of `tokens` in which every layer has this load.
using ExpertPrice = std::function<double(std::int64_t tokens, const RankLoad& load)>;

class ExpertLoads {
 public:
  ExpertLoads(const ExpertPopularity& popularity, std::int64_t epoch,
              std::vector<ExpertPlacement> placements);
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
  double expected_ns(std::int64_t tokens, const ExpertPrice& price) { return row(tokens, price).all; }
  double layer_ns(std::int64_t tokens, std::int32_t layer, const ExpertPrice& price) {
    return row(tokens, price).layers[static_cast<std::size_t>(layer)];
  }
  // Mean over layers of the expected load, from scratch.
  RankLoad mean_load(double tokens) const;

 private:
  struct Row {
    double all = 0;
    std::vector<double> layers;
  };
  const Row& row(std::int64_t tokens, const ExpertPrice& price);
  const std::vector<RankLoad>& knot(std::size_t index, std::int64_t tokens);

  std::int64_t epoch_;
  std::vector<ExpertPlacement> placements_;
  std::vector<LayerLoads> layers_;
  void balance();
  double balancedness_ = 1;
  std::vector<std::vector<RankLoad>> knots_;  // by knot and layer
  std::vector<std::unique_ptr<Row>> rows_;    // by tokens
};

}  // namespace orrery
