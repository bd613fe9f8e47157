// Which experts a token chooses, by its name: request, place in the request, layer. No plan, batch, order or
// engine has a part in it. A run asks for it millions of times, so numbers come from SplitMix64 (Steele, Lea,
// Flood, OOPSLA 2014), whose state is the name and a counter: like base/random.h a function of names only,
// and a tenth of its price.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace orrery {

// Of one token in all layers. `request` = index in the trace, `token` = its place in the request, from 0.
std::uint64_t token_key(std::uint64_t seed, std::uint64_t request, std::uint64_t token);

class TokenNumbers {
 public:
  TokenNumbers(std::uint64_t key, std::uint64_t layer) : state_(mix(key + (layer + 1) * layers)) {}
  std::uint64_t next() { return mix(state_ += golden); }
  static std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
  }
  static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15ULL;

 private:
  static constexpr std::uint64_t layers = 0xd1342543de82ef95ULL;  // odd: every layer another start
  std::uint64_t state_;
};

// The law of choice.h out of such numbers: an alias table in whole numbers, half a number a try, repeats
// thrown away. Weights are met within 2⁻³² of the largest possible share.
class NamedChoice {
 public:
  NamedChoice() = default;
  explicit NamedChoice(std::span<const double> weights);
  // Fills `out` with distinct experts in the order of choice.
  void draw(TokenNumbers numbers, std::span<std::uint16_t> out) const;

 private:
  struct Entry {
    std::uint32_t keep;  // of 2³²
    std::uint16_t own, other;
  };
  std::uint16_t left_over(TokenNumbers& numbers, std::span<const std::uint16_t> chosen) const;

  std::vector<Entry> table_;
  std::vector<double> weights_;
};

}  // namespace orrery
