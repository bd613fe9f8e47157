// Loads of a batch whose tokens' choices are drawn.
#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "base/check.h"
#include "base/det_math.h"
#include "costmodel/experts/rank_loads.h"

namespace orrery {

namespace {

constexpr std::size_t most_chosen = 64;  // experts of a token
constexpr int index_bits = 14;           // of a token of the sample
static_assert(sampled_tokens == std::int64_t{1} << index_bits);

double most(const std::vector<double>& values) {
  return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
}

const std::uint16_t* choice_of_sample(const ExpertDemand& demand, std::uint64_t key, std::uint64_t layer) {
  const std::uint64_t index = TokenNumbers(key, layer).next() >> (64 - index_bits);
  return &demand.sample[index * static_cast<std::uint64_t>(demand.per_token)];
}

}  // namespace

void ExpertDemand::draw(std::uint64_t key, std::uint64_t layer, std::span<std::uint16_t> out) const {
  if (!grouped()) return choice.draw(TokenNumbers(key, layer), out);
  const std::uint16_t* chosen = choice_of_sample(*this, key, layer);
  std::copy(chosen, chosen + out.size(), out.begin());
}

// By rank, and by node; `touched`: by slot.
struct LayerLoads::Counts {
  std::vector<double> rows, distinct, received, at_node;
  std::vector<std::uint8_t> touched;
};

LayerLoads::Counts LayerLoads::count(std::uint64_t layer, std::span<const std::uint64_t> keys) const {
  Counts c{.rows = std::vector<double>(ranks_, 0.0),
           .distinct = std::vector<double>(ranks_, 0.0),
           .received = std::vector<double>(touched_.size(), 0.0),
           .at_node = std::vector<double>(node_.size(), 0.0),
           .touched = std::vector<std::uint8_t>(slot_.size(), 0)};
  std::vector<std::uint32_t> rows(ranks_, 0);
  std::vector<std::size_t> rank_seen(touched_.size(), SIZE_MAX), node_seen(node_.size(), SIZE_MAX);
  const auto meet = [&](std::size_t rank, std::size_t token) {
    const std::size_t node = rank / static_cast<std::size_t>(groups_.ranks_of_node);
    if (std::exchange(rank_seen[rank], token) != token) ++c.received[rank];
    if (std::exchange(node_seen[node], token) != token) ++c.at_node[node];
  };
  std::array<std::uint16_t, most_chosen> chosen;
  ORRERY_CHECK(static_cast<std::size_t>(demand_->per_token) <= chosen.size(), "experts of a token");
  const auto k = static_cast<std::size_t>(demand_->per_token);
  // All layers' samples are more than a cache holds: look ahead.
  std::vector<const std::uint16_t*> looked_up(demand_->grouped() ? keys.size() : 0);
  for (std::size_t t = 0; t < looked_up.size(); ++t) {
    looked_up[t] = choice_of_sample(*demand_, keys[t], layer);
    __builtin_prefetch(looked_up[t]);
  }
  for (std::size_t t = 0; t < keys.size(); ++t) {
    if (looked_up.empty()) demand_->draw(keys[t], layer, std::span(chosen.data(), k));
    for (const std::uint16_t e : std::span(looked_up.empty() ? chosen.data() : looked_up[t], k)) {
      const auto replicas = static_cast<std::uint64_t>(first_[e + 1u] - first_[e]);
      const std::uint64_t replica = replicas > 1 ? keys[t] % replicas : 0;
      const auto slot = static_cast<std::size_t>(where_[static_cast<std::size_t>(first_[e]) + replica]);
      ++rows[rank_of_slot_[slot]];
      c.touched[slot] = 1;
      if (groups_.by_rank) meet(rank_of_slot_[slot], t);
    }
  }
  for (std::size_t r = 0; r < ranks_; ++r) {
    c.rows[r] = rows[r];
    std::uint32_t distinct = 0;
    for (std::size_t s = r * slots_; s < (r + 1) * slots_; ++s) distinct += c.touched[s];
    c.distinct[r] = distinct;
  }
  return c;
}

// Experts that nobody of the counted tokens chose may be met by others.
void LayerLoads::add_others(std::int64_t others, RandomStream& stream, Counts& c) const {
  const double t = static_cast<double>(others), all = static_cast<double>(slot_.size());
  double touched = 0;
  std::vector<double> more(ranks_);
  for (std::size_t r = 0; r < ranks_; ++r) {
    double mean = 0, variance = 0;
    for (std::size_t s = r * slots_; s < (r + 1) * slots_; ++s) {
      if (c.touched[s] != 0) continue;
      const double p = -det_expm1(t * missed_[s]);
      mean += p;
      variance += p * (1 - p) * (all > 1 ? all / (all - 1) : 1);
    }
    if (!clumped_.empty()) variance *= clumped_[r];
    touched += c.distinct[r] + mean;
    more[r] = c.distinct[r] + mean + std::sqrt(variance) * stream.normal();
  }
  for (std::size_t r = 0; r < ranks_; ++r)
    c.distinct[r] = std::clamp(more[r], c.distinct[r], std::min(static_cast<double>(slots_), touched));
  if (ranks_ == 1) {
    c.rows[0] += t * demand_->per_token;
    return;
  }
  double together = 0, spread = 0;
  for (std::size_t r = 0; r < ranks_; ++r) {
    more[r] = std::sqrt(t * spread_[r]) * stream.normal();
    together += more[r];
    spread += spread_[r];
  }
  for (std::size_t r = 0; r < ranks_; ++r) {
    more[r] -= spread_[r] / spread * together;
    c.rows[r] += t * mean_[r] + more[r];
  }
  if (!groups_.by_rank) return;
  const auto met = [&](double h, double deviate, double variance) {
    const double z = variance > 0 ? deviate / std::sqrt(variance) : 0;
    return std::min(t, t * h + std::sqrt(t * h * (1 - h)) * z);
  };
  const auto of_node = static_cast<std::size_t>(groups_.ranks_of_node);
  for (std::size_t n = 0; n < node_.size(); ++n) {
    double deviate = 0, variance = 0;
    for (std::size_t r = n * of_node; r < std::min(ranks_, (n + 1) * of_node); ++r) {
      c.received[r] += met(touched_[r], more[r], t * spread_[r]);
      deviate += more[r];
      variance += t * spread_[r];
    }
    c.at_node[n] += met(node_[n], deviate, variance);
  }
}

RankLoad LayerLoads::sampled(std::uint64_t layer, std::span<const std::uint64_t> keys, std::int64_t others,
                             RandomStream& stream) const {
  Counts c = count(layer, keys);
  if (others > 0) add_others(others, stream, c);
  const double tokens = static_cast<double>(keys.size()) + static_cast<double>(others);
  return {.rows = std::min(most(c.rows), most_rows(tokens)),
          .distinct = most(c.distinct),
          .received = most(c.received),
          .at_node = most(c.at_node)};
}

}  // namespace orrery
