#include "costmodel/expert_loads.h"

#include <algorithm>
#include <bit>

namespace orrery {

namespace {

constexpr std::int64_t exact = 32;
constexpr int octave_of_exact = 5, knots_shift = 3;

struct Knots {
  std::size_t index;  // of the lower one
  std::int64_t low, high;
};
Knots knots_around(std::int64_t tokens) {
  if (tokens < exact) return {static_cast<std::size_t>(tokens), tokens, tokens};
  const int octave = static_cast<int>(std::bit_width(static_cast<std::uint64_t>(tokens))) - 1;
  const int shift = octave - knots_shift;
  const std::int64_t low = (tokens >> shift) << shift;
  const std::int64_t place =
      ((octave - octave_of_exact) << knots_shift) + (tokens >> shift) - (1 << knots_shift);
  return {static_cast<std::size_t>(exact + place), low, low + (std::int64_t{1} << shift)};
}

}  // namespace

ExpertLoads::ExpertLoads(const ExpertPopularity& popularity, std::int64_t epoch,
                         std::vector<ExpertPlacement> placements, const ExchangeGroups& groups,
                         std::int32_t first_layer)
    : epoch_(epoch), placements_(std::move(placements)), groups_(groups) {
  for (std::size_t l = 0; l < placements_.size(); ++l)
    layers_.emplace_back(popularity.demand(first_layer + static_cast<std::int32_t>(l), epoch), placements_[l],
                         groups_);
  balance();
}

ExpertLoads::ExpertLoads(const ExpertLoads& other, std::vector<ExpertPlacement> placements)
    : epoch_(other.epoch_), placements_(std::move(placements)), groups_(other.groups_) {
  for (std::size_t l = 0; l < placements_.size(); ++l)
    layers_.emplace_back(other.layers_[l].demand(), placements_[l], groups_);
  balance();
}

void ExpertLoads::balance() {
  double mean = 0, most = 0;
  for (const LayerLoads& layer : layers_) {
    const std::span<const double> rows = layer.mean_rows();
    most += *std::max_element(rows.begin(), rows.end());
    mean += static_cast<double>(layer.demand()->per_token) / static_cast<double>(rows.size());
  }
  balancedness_ = mean / most;
}

const std::vector<RankLoad>& ExpertLoads::knot(std::size_t index, std::int64_t tokens) {
  if (index >= knots_.size()) knots_.resize(index + 1);
  if (knots_[index].empty()) {
    for (const LayerLoads& layer : layers_)
      knots_[index].push_back(layer.expected(static_cast<double>(tokens)));
  }
  return knots_[index];
}

RankLoad ExpertLoads::load(std::int32_t layer, std::int64_t tokens) {
  const Knots k = knots_around(tokens);
  const auto l = static_cast<std::size_t>(layer);
  const RankLoad low = knot(k.index, k.low)[l];
  if (tokens == k.low) return low;
  const RankLoad high = knot(k.index + 1, k.high)[l];
  const double part = static_cast<double>(tokens - k.low) / static_cast<double>(k.high - k.low);
  const auto between = [part](double a, double b) { return a + part * (b - a); };
  return {between(low.rows, high.rows), between(low.distinct, high.distinct),
          between(low.received, high.received), between(low.at_node, high.at_node),
          between(low.uneven_tiles, high.uneven_tiles)};
}

const ExpertLoads::Row& ExpertLoads::row(const ExpertStep& step, const ExpertPrice& price) {
  if (step.own > 0) {
    if (exchanged_.size() >= most_exchanged && !exchanged_.contains(step)) exchanged_.clear();
    Row& row = exchanged_[step];
    if (row.layers.empty()) fill(row, step, price);
    return row;
  }
  const auto index = static_cast<std::size_t>(step.tokens);
  if (index >= rows_.size()) rows_.resize(index + 1);
  if (rows_[index] == nullptr) {
    rows_[index] = std::make_unique<Row>();
    fill(*rows_[index], step, price);
  }
  return *rows_[index];
}

std::array<std::span<const ExpertTime>, 2> ExpertLoads::halves(const std::array<ExpertStep, 2>& steps,
                                                               const ExpertPrice& price) {
  if (exchanged_.size() + steps.size() > most_exchanged) exchanged_.clear();
  return {row(steps[0], price).parts, row(steps[1], price).parts};
}

void ExpertLoads::fill(Row& row, const ExpertStep& step, const ExpertPrice& price) {
  for (std::int32_t l = 0; l < layers(); ++l) {
    const ExpertTime time = price(step, load(l, step.tokens));
    if (step.own > 0) row.parts.push_back(time);
    row.layers.push_back(time.ns());
    row.all += row.layers.back();
  }
  row.all /= static_cast<double>(layers_.size());
}

namespace {

RankLoad mean_of(const std::vector<RankLoad>& loads) {
  RankLoad mean;
  for (const RankLoad& one : loads) {
    mean.rows += one.rows;
    mean.distinct += one.distinct;
    mean.received += one.received;
    mean.at_node += one.at_node;
    mean.uneven_tiles += one.uneven_tiles;
  }
  const auto count = static_cast<double>(loads.size());
  for (double* sum : {&mean.rows, &mean.distinct, &mean.received, &mean.at_node, &mean.uneven_tiles})
    *sum /= count;
  return mean;
}

}  // namespace

const RankLoad& ExpertLoads::typical(std::int64_t tokens) {
  const auto found = typical_.find(tokens);
  if (found != typical_.end()) return found->second;
  std::vector<RankLoad> loads;
  for (std::int32_t l = 0; l < layers(); ++l) loads.push_back(load(l, tokens));
  return typical_.emplace(tokens, mean_of(loads)).first->second;
}

RankLoad ExpertLoads::mean_load(double tokens) const {
  std::vector<RankLoad> loads;
  for (const LayerLoads& layer : layers_) loads.push_back(layer.expected(tokens));
  return mean_of(loads);
}

}  // namespace orrery
