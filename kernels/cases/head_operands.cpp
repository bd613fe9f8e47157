#include "kernels/cases/head_operands.h"

#include <cmath>
#include <utility>

#include "base/random.h"

namespace orrery::kernels {

namespace {
constexpr std::int64_t most_positions = 1024;

std::int64_t cache_blocks(const CaseSpec& spec) {
  return (spec.m + spec.block_size - 1) / spec.block_size + 3;
}
}  // namespace

std::vector<std::int64_t> draw_positions(std::int64_t tokens, std::uint64_t seed) {
  RandomStream random(seed, RandomPurpose::kernel_operands);
  std::vector<std::int64_t> out(static_cast<std::size_t>(tokens));
  for (auto& p : out) p = static_cast<std::int64_t>(random.below(most_positions));
  return out;
}

std::vector<float> rotary_angles(std::int64_t head_dim) {
  const auto half = static_cast<std::size_t>(head_dim / 2);
  std::vector<float> table(most_positions * 2 * half);
  for (std::size_t i = 0; i < half; ++i) {
    const double frequency = std::pow(1e6, -static_cast<double>(i) / static_cast<double>(half));
    for (std::size_t p = 0; p < most_positions; ++p) {
      table[p * 2 * half + i] = static_cast<float>(std::cos(static_cast<double>(p) * frequency));
      table[p * 2 * half + half + i] = static_cast<float>(std::sin(static_cast<double>(p) * frequency));
    }
  }
  return table;
}

std::vector<TurnedElement> turn_head(const std::vector<double>& x, const std::vector<double>& table) {
  const std::size_t half = x.size() / 2;
  std::vector<TurnedElement> out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    const std::size_t angle = i % half, other = (i + half) % x.size();
    const double straight = x[i] * table[angle], crossed = x[other] * table[half + angle];
    out[i] = {i < half ? straight - crossed : straight + crossed, std::fabs(straight) + std::fabs(crossed)};
  }
  return out;
}

std::int64_t cache_slots(const CaseSpec& spec) { return cache_blocks(spec) * spec.block_size; }

std::vector<std::int64_t> draw_slots(const CaseSpec& spec, std::uint64_t seed) {
  RandomStream random(seed, RandomPurpose::kernel_operands);
  std::vector<std::int64_t> order(static_cast<std::size_t>(cache_blocks(spec))), out;
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int64_t>(i);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  for (std::int64_t t = 0; t < spec.m; ++t) {
    const std::int64_t block = order[static_cast<std::size_t>(t / spec.block_size)];
    const bool padding = spec.fill == Fill::saturating && t % 7 == 6;
    out.push_back(padding ? -1 : block * spec.block_size + t % spec.block_size);
  }
  return out;
}

}  // namespace orrery::kernels
