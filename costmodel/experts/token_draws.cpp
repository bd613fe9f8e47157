#include "costmodel/experts/token_draws.h"

#include <algorithm>
#include <array>

#include "base/check.h"
#include "base/random.h"
#include "costmodel/experts/drawn_table.h"

namespace orrery {

namespace {

constexpr std::size_t most_experts = 1024;
constexpr int patience = 32;  // repeats in a row after which it is drawn from those left

}  // namespace

std::uint64_t token_key(std::uint64_t seed, std::uint64_t request, std::uint64_t token) {
  constexpr auto purpose = static_cast<std::uint64_t>(RandomPurpose::expert_routing);
  const std::uint64_t run = TokenNumbers::mix(seed + purpose * TokenNumbers::golden);
  return TokenNumbers::mix(TokenNumbers::mix(run + request + 1) + (token + 1) * TokenNumbers::golden);
}

std::vector<DrawnEntry> drawn_table(const AliasTable& alias) {
  std::vector<DrawnEntry> table;
  for (std::size_t i = 0; i < alias.weights.size(); ++i) {
    const double keep = std::clamp(alias.keep[i] * 0x1p32, 0.0, 0x1p32);
    DrawnEntry entry{.keep = 0, .own = static_cast<std::uint16_t>(i), .other = static_cast<std::uint16_t>(i)};
    if (keep < 0x1p32) {
      entry.keep = static_cast<std::uint32_t>(keep);
      entry.other = static_cast<std::uint16_t>(alias.other[i]);
    }
    table.push_back(entry);
  }
  return table;
}

NamedChoice::NamedChoice(std::span<const double> weights) {
  const AliasTable alias = alias_table(weights);
  ORRERY_CHECK(weights.size() <= most_experts, "experts of a layer");
  weights_ = alias.weights;
  for (const DrawnEntry& entry : drawn_table(alias)) table_.push_back({entry.keep, entry.own, entry.other});
}

void NamedChoice::draw(TokenNumbers numbers, std::span<std::uint16_t> out) const {
  std::array<std::uint64_t, most_experts / 64> taken{};
  const std::uint64_t n = table_.size();
  std::uint64_t word = 0;
  bool half = false;
  for (std::size_t have = 0; have < out.size();) {
    int tries = 0;
    std::uint16_t expert = 0;
    for (; tries < patience; ++tries) {
      word = half ? word >> 32 : numbers.next();
      half = !half;
      const std::uint64_t place = (word & 0xffffffffU) * n;
      const Entry& entry = table_[place >> 32];
      expert = static_cast<std::uint32_t>(place) < entry.keep ? entry.own : entry.other;
      if ((taken[expert / 64] >> (expert % 64) & 1) == 0) break;
    }
    if (tries == patience) expert = left_over(numbers, out.first(have));
    taken[expert / 64] |= std::uint64_t{1} << (expert % 64);
    out[have++] = expert;
  }
}

std::uint16_t NamedChoice::left_over(TokenNumbers& numbers, std::span<const std::uint16_t> chosen) const {
  const auto is_chosen = [&](std::size_t e) {
    return std::find(chosen.begin(), chosen.end(), static_cast<std::uint16_t>(e)) != chosen.end();
  };
  double left = 0;
  for (std::size_t e = 0; e < weights_.size(); ++e) left += is_chosen(e) ? 0 : weights_[e];
  double x = static_cast<double>(numbers.next() >> 11) * 0x1p-53 * left;
  std::size_t expert = 0;
  for (std::size_t e = 0; e < weights_.size(); ++e) {
    if (is_chosen(e)) continue;
    expert = e;
    x -= weights_[e];
    if (x < 0) break;
  }
  return static_cast<std::uint16_t>(expert);
}

}  // namespace orrery
