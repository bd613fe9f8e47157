// How often each expert of each layer is asked for, as a process in time: a function of layer, time and seed
// and of nothing else. It is constant within an epoch, so that whoever needs it asks once for each.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/time.h"
#include "costmodel/experts/grouped_choice.h"

namespace orrery {

struct ExpertDemand;
class ExpertDemands;

// What was counted: rows[topic][layer][expert], tokens that chose the expert. Every count is at least one
// half: an expert that nobody chose in a finite sample is rare, not impossible.
struct ExpertCounts {
  std::vector<std::string> topics;  // in order of appearance; one without a name where the file has none
  std::vector<std::vector<std::vector<double>>> rows;
  std::size_t layers() const { return rows.empty() ? 0 : rows.front().size(); }
  std::size_t experts() const { return layers() == 0 ? 0 : rows.front().front().size(); }
};
// CSV with the columns layer, expert, count and, where topics are told apart, task. Layers are numbered in
// the file's order (a model's dense layers have no rows). Errors: a missing column or cell, a repeated or
// missing expert, a count that is not a whole number, each with its line.
Result<ExpertCounts> load_expert_counts(const std::string& path);

struct PopularitySpec {
  enum class Law : std::uint8_t { uniform, zipf, dirichlet, file };
  Law law = Law::uniform;
  double parameter = 0;  // zipf: exponent ≥ 0, weight of rank r ∝ r^−s; dirichlet: concentration > 0
  double layer_correlation = 0;  // of neighbours' scores, [0, 1]: whether the same places are hot in all
                                 // layers
  std::string file;
  ExpertCounts counts;
  // A change of topic each `every_s` (0 = never): in `steps` equal pieces, 1 = at once. A topic changes which
  // experts are popular, not how unequal they are; a file with several topics takes them in turn.
  double every_s = 0;
  std::int32_t steps = 1;
  GroupLimit limit;                        // of the model's router
  std::shared_ptr<ExpertDemands> demands;  // where set: what was drawn under it before
  bool uniform() const { return law == Law::uniform; }
};

class ExpertPopularity {
 public:
  ExpertPopularity(const PopularitySpec& spec, std::int32_t layers, std::int32_t experts,
                   std::int32_t per_token, std::uint64_t seed);

  std::int32_t layers() const { return layers_; }
  std::int32_t experts() const { return experts_; }
  std::int32_t per_token() const { return per_token_; }
  bool constant() const { return epoch_ns_ == 0; }
  std::int64_t epoch(SimTime time) const { return epoch_ns_ == 0 ? 0 : time.ns() / epoch_ns_; }
  SimTime epoch_end(std::int64_t epoch) const {
    return epoch_ns_ == 0 ? SimTime::never() : SimTime((epoch + 1) * epoch_ns_);
  }
  // Weights of Plackett-Luce (choice.h), sum 1, all > 0.
  std::vector<double> weights(std::int32_t layer, std::int64_t epoch) const;
  // What tokens ask of the layer then (demands.h).
  std::shared_ptr<const ExpertDemand> demand(std::int32_t layer, std::int64_t epoch) const;

 private:
  double score(std::int32_t layer, std::int32_t expert, std::int64_t topic) const;
  std::vector<double> shape(std::int32_t layer) const;

  PopularitySpec spec_;
  std::int32_t layers_, experts_, per_token_;
  std::uint64_t seed_;
  std::int64_t epoch_ns_ = 0;
  std::vector<std::vector<std::vector<double>>> fitted_;  // file: [topic][layer] weights
};

}  // namespace orrery
