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
                         std::vector<ExpertPlacement> placements)
    : epoch_(epoch), placements_(std::move(placements)) {
  for (std::int32_t l = 0; l < popularity.layers(); ++l)
    layers_.emplace_back(popularity.weights(l, epoch), popularity.per_token(),
                         placements_[static_cast<std::size_t>(l)]);
  balance();
}

ExpertLoads::ExpertLoads(const ExpertLoads& other, std::vector<ExpertPlacement> placements)
    : epoch_(other.epoch_), placements_(std::move(placements)) {
  for (std::size_t l = 0; l < placements_.size(); ++l)
    layers_.emplace_back(other.layers_[l].demand(), placements_[l]);
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
  return {low.rows + part * (high.rows - low.rows), low.distinct + part * (high.distinct - low.distinct)};
}

const ExpertLoads::Row& ExpertLoads::row(std::int64_t tokens, const ExpertPrice& price) {
  const auto index = static_cast<std::size_t>(tokens);
  if (index >= rows_.size()) rows_.resize(index + 1);
  if (rows_[index] == nullptr) {
    rows_[index] = std::make_unique<Row>();
    Row& row = *rows_[index];
    for (std::int32_t l = 0; l < layers(); ++l) {
      row.layers.push_back(price(tokens, load(l, tokens)));
      row.all += row.layers.back();
    }
    row.all /= static_cast<double>(layers_.size());
  }
  return *rows_[index];
}

RankLoad ExpertLoads::mean_load(double tokens) const {
  RankLoad mean;
  for (const LayerLoads& layer : layers_) {
    const RankLoad one = layer.expected(tokens);
    mean.rows += one.rows;
    mean.distinct += one.distinct;
  }
  mean.rows /= static_cast<double>(layers_.size());
  mean.distinct /= static_cast<double>(layers_.size());
  return mean;
}

}  // namespace orrery
